import asyncio

import pytest

from actors.instance.lane import Lane
from actors.settings import LaneSettings
from engines.errors import Draining, QueueFull, RequestTooLarge
from engines.requests import TenantShare

SETTINGS = LaneSettings(running_bytes=10, queued_bytes=20, max_bytes=50, least_bytes=2)


class Worker:
    """Holds a place until it is told to go."""

    def __init__(self, lane: Lane, size: int, priority: int = 0, tenant: str = "") -> None:
        self.runs = False
        self.go = asyncio.Event()
        self.task = asyncio.ensure_future(self._work(lane, size, priority, tenant))

    async def _work(self, lane: Lane, size: int, priority: int, tenant: str) -> None:
        async with lane.place(size, priority, TenantShare(name=tenant) if tenant else None):
            self.runs = True
            await self.go.wait()

    async def end(self) -> None:
        self.go.set()
        await self.task
        await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_bytes_run_and_so_many_wait() -> None:
    lane = Lane(SETTINGS)
    workers = [Worker(lane, 5) for _ in range(6)]
    await turns()
    assert [worker.runs for worker in workers] == [True, True, False, False, False, False]
    assert (lane.running, lane.queued) == (2, 4)
    with pytest.raises(QueueFull) as refused:
        async with lane.place(5):
            pass
    assert refused.value.retry_after_s
    await workers[1].end()
    assert [worker.runs for worker in workers] == [True, True, True, False, False, False]
    for worker in workers:
        worker.go.set()
    await asyncio.gather(*(worker.task for worker in workers))
    assert (lane.running, lane.queued) == (0, 0)


async def test_the_smallest_counts_and_the_largest_runs_alone() -> None:
    lane = Lane(SETTINGS)
    small = [Worker(lane, 0) for _ in range(5)]
    large = Worker(lane, 50)
    await turns()
    assert all(worker.runs for worker in small)
    assert not large.runs
    for worker in small:
        await worker.end()
    assert large.runs
    late = Worker(lane, 1)
    await turns()
    assert not late.runs
    await large.end()
    await late.end()
    with pytest.raises(RequestTooLarge):
        async with lane.place(51):
            pass


async def test_a_large_one_that_waits_is_not_overtaken_but_by_order() -> None:
    lane = Lane(SETTINGS)
    first, large, small, urgent = Worker(lane, 5), Worker(lane, 10), Worker(lane, 2), Worker(lane, 2, priority=-1)
    await turns()
    assert [worker.runs for worker in (first, large, small, urgent)] == [True, False, False, True]
    await first.end()
    assert [worker.runs for worker in (large, small, urgent)] == [False, False, True]
    await urgent.end()
    assert [worker.runs for worker in (large, small)] == [True, False]
    await large.end()
    await small.end()


async def test_who_is_cancelled_takes_nothing_along() -> None:
    lane = Lane(SETTINGS)
    first, second, third = Worker(lane, 10), Worker(lane, 10), Worker(lane, 10)
    await turns()
    second.task.cancel()
    await turns()
    assert (lane.running, lane.queued) == (1, 1)
    # In the turn in which it is let in: its place goes to the next.
    fourth = Worker(lane, 10)
    await turns()
    first.go.set()
    await asyncio.sleep(0)
    third.task.cancel()
    await turns()
    assert fourth.runs
    await fourth.end()
    assert (lane.running, lane.queued) == (0, 0)


async def test_who_waits_can_be_turned_away() -> None:
    lane = Lane(SETTINGS)
    runs, waits = Worker(lane, 10), Worker(lane, 10)
    await turns()
    lane.clear(Draining("It ends."))
    with pytest.raises(Draining):
        await waits.task
    assert (lane.running, lane.queued) == (1, 0)
    await runs.end()


async def test_tenants_take_turns_by_bytes() -> None:
    lane = Lane(LaneSettings(running_bytes=10, queued_bytes=100, max_bytes=50, least_bytes=2))
    busy, *waiting = (Worker(lane, size, tenant=name) for name, size in [("a", 10), ("a", 10), ("a", 10), ("b", 6)])
    await turns()
    order: list[int] = []
    await busy.end()
    for _ in range(3):
        (now,) = (number for number, worker in enumerate(waiting) if worker.runs and number not in order)
        order.append(now)
        await waiting[now].end()
    assert order == [0, 2, 1]


@pytest.mark.parametrize("let_in", [True, False])
async def test_who_was_cancelled_is_not_let_in(let_in: bool) -> None:
    lane = Lane(SETTINGS)
    first, second, third = Worker(lane, 10), Worker(lane, 10), Worker(lane, 10)
    await turns()
    # It does not know yet that it was let in when it is cancelled, or the other way round.
    first.go.set()
    if let_in:
        await asyncio.sleep(0)
    second.task.cancel()
    await turns()
    assert second.task.cancelled()
    assert third.runs
    await third.end()
    assert (lane.running, lane.queued) == (0, 0)


async def test_the_last_of_who_holds_most_of_it_gives_way() -> None:
    lane = Lane(SETTINGS)
    first, second, third, late = (Worker(lane, 10, tenant=name) for name in "aaab")
    await turns()
    assert (first.runs, lane.queued) == (True, 2)
    with pytest.raises(QueueFull, match="others have asked for less"):
        await third.task
    too_many = Worker(lane, 10, tenant="a")
    with pytest.raises(QueueFull, match="The instance is full: 1 requests of this kind run and 2 wait"):
        await too_many.task
    await first.end()
    await (second if second.runs else late).end()
    await (late if second.task.done() else second).end()
    assert (lane.running, lane.queued) == (0, 0)
