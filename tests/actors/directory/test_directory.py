import asyncio
from dataclasses import replace

from actors.directory.directory import Directory
from actors.directory.known_instance import Instance, InstanceState
from engines.contract import Load


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


A = Instance(id="a", model="m")
B = Instance(id="b", model="m")


async def test_an_instance_that_is_not_renewed_is_forgotten() -> None:
    clock = Clock()
    directory = Directory(lease_s=5.0, clock=clock)
    await directory.announce(A)
    await directory.announce(B)
    clock.now_s = 4.0
    await directory.announce(B)
    clock.now_s = 6.0
    assert set((await directory.snapshot()).instances) == {"b"}


async def test_an_older_incarnation_never_takes_the_place_of_a_newer_one() -> None:
    directory = Directory()
    newer = replace(A, incarnation=2)
    assert await directory.announce(newer)
    assert not await directory.announce(replace(A, incarnation=1, state=InstanceState.READY))
    await directory.withdraw("a", 1)
    assert (await directory.snapshot()).instances == {"a": newer}
    await directory.withdraw("a", 2)
    assert not await directory.announce(replace(A, incarnation=1))
    assert (await directory.snapshot()).instances == {}
    assert await directory.announce(replace(A, incarnation=3))


async def test_a_watcher_hears_of_a_change_and_not_of_a_load() -> None:
    directory = Directory()
    await directory.announce(A)
    version = (await directory.snapshot()).version
    watching = asyncio.ensure_future(directory.watch(version, 30.0))
    await asyncio.sleep(0)
    await directory.announce(replace(A, load=Load(running=3)))
    await asyncio.sleep(0.01)
    assert not watching.done()
    await directory.announce(replace(A, state=InstanceState.READY, load=Load(running=4)))
    view = await watching
    assert view.version != version
    assert view.instances["a"].load.running == 4


async def test_a_watcher_hears_of_a_lease_that_runs_out() -> None:
    directory = Directory(lease_s=0.05)
    await directory.announce(A)
    version = (await directory.snapshot()).version
    view = await directory.watch(version, 30.0)
    assert view.instances == {}


async def test_watching_ends_after_its_time() -> None:
    directory = Directory()
    version = (await directory.snapshot()).version
    assert (await directory.watch(version, 0.01)).version == version


async def test_a_young_directory_says_that_it_may_not_know_everybody() -> None:
    clock = Clock()
    directory = Directory(grace_s=5.0, clock=clock)
    await directory.announce(A)
    young = await directory.snapshot()
    assert not young.is_complete
    clock.now_s = 5.0
    await directory.announce(A)
    grown = await directory.watch(young.version, 30.0)
    assert grown.is_complete
    assert grown.instances == {"a": A}


async def test_a_quarantine_is_news_and_ends() -> None:
    clock = Clock()
    directory = Directory(clock=clock)
    version = (await directory.snapshot()).version
    await directory.quarantine("fingerprint", 5.0)
    assert (await directory.watch(version, 30.0)).quarantined == {"fingerprint": 5.0}
    clock.now_s += 6.0
    assert (await directory.snapshot()).quarantined == {}


async def test_a_quarantine_is_said_when_every_watcher_knows_it() -> None:
    directory = Directory()
    views = {name: await directory.watch(None, 30.0, watcher=name) for name in "ab"}
    said = asyncio.create_task(directory.quarantine("fingerprint", 60.0))
    for name, view in views.items():
        views[name] = await directory.watch(view.version, 30.0, watcher=name)
        assert not said.done()
    asks = [asyncio.create_task(directory.watch(view.version, 30.0, watcher=name)) for name, view in views.items()]
    async with asyncio.timeout(1.0):
        await said
    for ask in asks:
        ask.cancel()


async def test_a_new_directory_goes_on_with_the_key_that_the_routers_have() -> None:
    first = await Directory().watch(None, 0.0)
    second = Directory()
    assert (await second.watch(None, 0.0, first.key)).key == first.key
    assert (await second.watch(None, 0.0, b"another")).key == first.key
    assert (await Directory().snapshot()).key != first.key


async def test_the_board_keeps_values_for_their_time() -> None:
    clock = Clock()
    directory = Directory(clock=clock)
    await directory.post("router/1", b"one", 5.0)
    await directory.post("router/2", b"two", 50.0)
    await directory.post("other", b"three", 50.0)
    assert await directory.board("router/") == {"router/1": b"one", "router/2": b"two"}
    clock.now_s = 6.0
    assert await directory.board("router/") == {"router/2": b"two"}
