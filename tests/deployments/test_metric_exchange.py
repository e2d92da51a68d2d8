import asyncio
import re
from collections.abc import Iterable

import pytest

from deployments.metric_exchange import CUMULATIVE_PREFIX, GONE_AFTER_S, MetricExchange
from deployments.metrics import Metrics
from engines.errors import NotReady
from tests.deployments.memory_board import MemoryBoard
from tests.deployments.test_metrics import served, values


def growing(figures: dict[str, float]) -> Iterable[str]:
    return (key for key in figures if re.match(r"\w+_(total|count|sum|bucket)\b", key))


async def test_whichever_replica_answers_gives_the_sum() -> None:
    board = MemoryBoard()
    one, other = Metrics("one", board), Metrics("other", board)
    served(one)
    served(other)
    served(other)
    first = values(await one.text([]))
    second = values(await other.text([]))
    third = values(await one.text([]))
    tokens = "penstock_generation_tokens_total{model=demo}"
    assert first[tokens] == 3  # the other one has not posted yet
    assert second[tokens] == third[tokens] == 9
    assert third["penstock_router_replicas{}"] == 2
    assert third["penstock_time_to_first_token_seconds_bucket{le=+Inf,model=demo}"] == 3


async def test_nothing_falls_when_a_replica_dies() -> None:
    board = MemoryBoard()
    dying, living = Metrics("dying", board), Metrics("living", board)
    served(dying)
    under_way = dying.begin("/v1/chat/completions")
    under_way.model = "demo"
    await dying.text([])
    before = values(await living.text([]))
    assert before["penstock_requests_in_flight{}"] == 1
    board.now_s += 3600
    replacement = Metrics("replacement", board)
    after = values(await replacement.text([]))
    assert [key for key in growing(before) if after[key] < before[key]] == []
    # What it was doing died with it.
    assert after["penstock_requests_in_flight{}"] == 0
    assert after["penstock_router_replicas{}"] == 1


async def test_no_scrape_shows_less_than_the_one_before() -> None:
    board = MemoryBoard()
    replicas = [Metrics(f"replica-{index}", board) for index in range(3)]
    before: dict[str, float] = {}
    for step in range(12):
        served(replicas[(step * 7) % 3], tokens=step)
        figures = values(await replicas[step % 3].text([]))
        fallen = [key for key in growing(before) if figures.get(key, 0) < before[key]]
        assert fallen == []
        before = figures


class LostBoard:
    """A board that is away."""

    def __init__(self) -> None:
        self.posts = 0

    async def post(self, key: str, value: bytes, ttl_s: float | None) -> None:
        self.posts += 1
        raise NotReady("The board is away.")

    async def read(self, prefix: str) -> dict[str, bytes]:
        raise NotReady("The board is away.")


async def test_a_board_that_is_away_fails_the_scrape_and_not_the_replica() -> None:
    board = LostBoard()
    metrics = Metrics("one", board, post_every_s=0.001)
    with pytest.raises(NotReady):
        await metrics.text([])
    posting = asyncio.create_task(metrics.post_forever())
    async with asyncio.timeout(60):
        while board.posts < 3:  # noqa: ASYNC110 - the board sets no event
            await asyncio.sleep(0.001)
    assert not posting.done()
    posting.cancel()


async def test_replicas_that_are_gone_are_kept_as_one_and_the_sums_do_not_fall() -> None:
    board = MemoryBoard()
    alive, exchange = Metrics("alive", board), MetricExchange("alive", board)
    for number in range(5):
        gone = Metrics(f"gone-{number}", board)
        served(gone)
        await gone.post()
        await alive.post()
        before = values(await alive.text([]))
        board.now_s += GONE_AFTER_S - 1
        await exchange.fold()
        assert len(await board.read(CUMULATIVE_PREFIX)) == 2 + min(number, 1)
        board.now_s += 2
        await alive.post()
        await exchange.fold()
        assert len(await board.read(CUMULATIVE_PREFIX)) == 2
        after = values(await alive.text([]))
        for key in growing(before):
            assert after[key] >= before[key], key
    assert after["penstock_prompt_tokens_total{model=demo}"] == 25


async def test_two_that_add_up_at_once_count_nothing_twice() -> None:
    board = MemoryBoard()
    served(gone := Metrics("gone", board))
    await gone.post()
    board.now_s += GONE_AFTER_S + 1
    one, other = Metrics("one", board), Metrics("other", board)
    await asyncio.gather(one.post(), other.post())
    await asyncio.gather(*(MetricExchange(name, board).fold() for name in ("one", "other")))
    assert values(await one.text([]))["penstock_prompt_tokens_total{model=demo}"] == 5
