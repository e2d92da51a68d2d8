"""Which adapters are loaded: so many at most, none taken out that is in use, and whoever waits gets its turn."""

import asyncio
from collections.abc import Callable

import pytest

from engines.adapters import residency
from engines.adapters.residency import AdapterUse, ResidentAdapters
from engines.context import Context
from engines.errors import AdapterFailed, Cancelled, EngineFailed, InstanceLost, PenstockError, QueueFull

NAMES = ("a", "b", "c", "d")


class Engine:
    """Loads what it is told to, when it is allowed to."""

    def __init__(self, limit: int = 2, most_waiting: int = 8) -> None:
        self.loaded: set[str] = set()
        self.log: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.now_s = 0.0
        self.adapters = ResidentAdapters(NAMES, limit, self._load, self._unload, most_waiting, lambda: self.now_s)
        self.limit = limit

    async def use(self, name: str, context: Context | None = None) -> AdapterUse:
        use = await self.adapters.use(name, context or Context())
        assert name in self.loaded
        return use

    async def touch(self, *names: str) -> None:
        for name in names:
            (await self.use(name)).release()

    async def _load(self, name: str) -> None:
        self.log.append(f"+{name}")
        await self.may_load.wait()
        if name in self.broken:
            raise self.broken[name]
        self.loaded.add(name)
        assert len(self.loaded) <= self.limit

    async def _unload(self, name: str) -> None:
        self.log.append(f"-{name}")
        await asyncio.sleep(0)
        self.loaded.remove(name)


async def settled(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


async def test_the_least_recently_used_makes_room() -> None:
    engine = Engine()
    await engine.touch("a", "b", "a", "c")
    assert engine.adapters.names == ("a", "c")
    assert engine.log == ["+a", "+b", "-b", "+c"]


async def test_all_who_want_one_wait_for_one_load() -> None:
    engine = Engine()
    uses = await asyncio.gather(*(engine.use("a") for _ in range(5)))
    assert engine.log == ["+a"]
    for use in uses:
        use.release()
        use.release()  # Idempotent: the others keep theirs.
    await engine.touch("b", "c")
    assert engine.adapters.names == ("b", "c")


async def test_one_in_use_stays_though_others_were_used_later() -> None:
    engine = Engine()
    held = await engine.use("a")
    await engine.touch("b", "c", "d")
    assert "a" in engine.loaded
    held.release()
    await engine.touch("b", "c")
    assert "a" not in engine.loaded


async def test_where_all_are_in_use_the_first_to_be_free_gives_its_place() -> None:
    engine = Engine()
    a, b = await engine.use("a"), await engine.use("b")
    waiting = asyncio.ensure_future(engine.use("c"))
    await settled(lambda: engine.adapters.names == ("b",))
    b.release()
    (await waiting).release()
    assert engine.loaded == {"a", "c"}
    # It was to leave, and stayed: it takes requests again.
    assert engine.adapters.names == ("a", "c")
    a.release()


async def test_a_busy_one_takes_nothing_new_while_somebody_waits_for_its_place() -> None:
    engine = Engine(limit=1)
    first = await engine.use("a")
    other = asyncio.ensure_future(engine.use("b"))
    await settled(lambda: engine.adapters.names == ())
    again = asyncio.ensure_future(engine.use("a"))
    await settled(lambda: len(engine.log) == 1)
    assert not other.done() and not again.done()
    first.release()
    (await other).release()
    (await again).release()
    assert engine.log == ["+a", "-a", "+b", "-b", "+a"]


async def test_whoever_gives_up_frees_the_way() -> None:
    engine = Engine(limit=1)
    held = await engine.use("a")
    context = Context()
    waiting = asyncio.ensure_future(engine.use("b", context))
    await settled(lambda: engine.adapters.names == ())
    assert engine.adapters.is_waiting(context)
    context.stop()
    with pytest.raises(Cancelled):
        await waiting
    assert not engine.adapters.is_waiting(context)
    await engine.touch("a")  # It need not leave any more.
    held.release()
    assert engine.log == ["+a"]


async def test_a_cancelled_task_holds_nothing() -> None:
    engine = Engine(limit=1)
    engine.may_load.clear()
    waiting = asyncio.ensure_future(engine.use("a"))
    await settled(lambda: engine.log == ["+a"])
    engine.may_load.set()
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await engine.touch("b")
    assert engine.loaded == {"b"}


async def test_what_fails_fails_all_who_wait_each_with_its_own_error_and_is_left_alone_for_a_while() -> None:
    engine = Engine()
    engine.broken["a"] = AdapterFailed("no")
    outcomes = await asyncio.gather(*(engine.use("a") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, AdapterFailed) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3
    await engine.touch("b")
    with pytest.raises(AdapterFailed):
        await engine.use("a")
    assert engine.log == ["+a", "+b"]
    del engine.broken["a"]
    engine.now_s = residency.FAILED_S
    await engine.touch("a")
    assert engine.adapters.names == ("a", "b")


async def test_a_bug_is_heard_of() -> None:
    engine = Engine()
    engine.broken["a"] = RuntimeError("bug")
    with pytest.raises(EngineFailed, match="RuntimeError: bug"):
        await engine.use("a")


async def test_so_many_wait_and_no_more() -> None:
    engine = Engine(limit=1, most_waiting=2)
    held = await engine.use("a")
    waiting = [asyncio.ensure_future(engine.use(name)) for name in ("b", "c")]
    await settled(lambda: engine.adapters.names == ())
    with pytest.raises(QueueFull):
        await engine.use("d")
    held.release()
    for use in waiting:
        (await use).release()
    await engine.touch("d")


async def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(AdapterFailed, match="'x' is not known"):
        await Engine().use("x")


async def test_the_end_is_heard_by_all_who_wait() -> None:
    engine = Engine(limit=1)
    held = await engine.use("a")
    waiting = [asyncio.ensure_future(engine.use(name)) for name in ("b", "c", "b")]
    await settled(lambda: engine.adapters.names == ())
    engine.adapters.close(InstanceLost("over"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, InstanceLost) for outcome in outcomes)
    held.release()


async def test_many_at_once_each_get_theirs() -> None:
    engine = Engine(limit=2, most_waiting=1000)
    running: dict[str, int] = {}

    async def work(number: int) -> None:
        name = NAMES[number * 7 % 4]
        try:
            use = await engine.use(name)
        except PenstockError as error:
            raise AssertionError from error
        running[name] = running.get(name, 0) + 1
        for _ in range(number % 5):
            await asyncio.sleep(0)
            assert name in engine.loaded
        running[name] -= 1
        use.release()

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(number) for number in range(200)))
    assert not any(running.values())
