import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import ray

from actors.channel.calls import result
from actors.directory.budgets import Claim, Grant, Limits
from actors.directory.client import NAME, DirectoryClient
from actors.directory.known_instance import Instance, InstanceState
from actors.instance.engine_actor import create_engine_actor
from actors.settings import AdmissionSettings, ChannelSettings
from engines.errors import EngineFailed
from tests.actors.channel_reader import eventually, spec, until
from tests.actors.conftest import Start


class Watcher:
    """What one router sees."""

    def __init__(self, client: DirectoryClient) -> None:
        self.views: list[dict[str, Instance]] = []
        self._task = asyncio.ensure_future(self._watch(client))

    @property
    def states(self) -> dict[str, InstanceState]:
        return {id: instance.state for id, instance in self.views[-1].items()} if self.views else {}

    def close(self) -> None:
        self._task.cancel()

    async def _watch(self, client: DirectoryClient) -> None:
        async for view in client.watch():
            self.views.append(view.instances)


@pytest.fixture
async def watcher(fleet: str) -> AsyncIterator[Watcher]:
    watcher = Watcher(DirectoryClient(fleet))
    yield watcher
    watcher.close()


async def test_an_instance_is_seen_from_its_boot_to_its_end(start: Start, watcher: Watcher) -> None:
    instance, _ = await start(["x"], boot_s=1.5)
    await until(lambda: watcher.states == {instance.id: InstanceState.READY})
    assert InstanceState.STARTING in {view[instance.id].state for view in watcher.views if instance.id in view}
    seen = watcher.views[-1][instance.id]
    assert (await seen.actor.describe.remote()).pid == seen.pid == instance.pid
    assert (seen.node, seen.capabilities) == (instance.node, instance.capabilities)
    await result(instance.actor.drain.remote(0.0), instance.id)
    await until(lambda: watcher.states == {instance.id: InstanceState.DRAINING})
    await result(instance.actor.stop.remote(), instance.id)
    await until(lambda: watcher.states == {})


async def test_an_instance_that_cannot_boot_says_why(fleet: str, watcher: Watcher) -> None:
    failing = spec(["x"], boot_error={"error": "EngineFailed", "message": "no GPU"})
    actor = create_engine_actor(
        "broken", fleet, failing, AdmissionSettings(), ChannelSettings(), options={"num_cpus": 0}
    )
    with pytest.raises(EngineFailed, match="no GPU"):
        await result(actor.boot.remote(), "broken")
    await until(lambda: watcher.states == {"broken": InstanceState.GONE})
    assert watcher.views[-1]["broken"].detail == "no GPU"
    ray.kill(actor)


async def test_an_actor_that_dies_is_forgotten(start: Start, watcher: Watcher) -> None:
    instance, _ = await start(["x"])
    await until(lambda: watcher.states == {instance.id: InstanceState.READY})
    ray.kill(instance.actor)
    await until(lambda: watcher.states == {}, 60.0)


@pytest.mark.parametrize("restarts", [True, False], ids=["restarted by Ray", "gone for good"])
async def test_losing_the_directory_loses_nothing(start: Start, fleet: str, watcher: Watcher, restarts: bool) -> None:
    instances = [(await start(["x"]))[0] for _ in range(2)]
    ready = {instance.id: InstanceState.READY for instance in instances}
    await until(lambda: watcher.states == ready)
    client = DirectoryClient(fleet)
    before = await client.snapshot()
    ray.kill(ray.get_actor(NAME, namespace=fleet), no_restart=not restarts)
    seen = len(watcher.views)

    async def is_filled_again() -> bool:
        try:
            view = await client.snapshot()
        except (ray.exceptions.RayError, TimeoutError, ValueError):
            return False
        return view.version[0] != before.version[0] and set(view.instances) == set(ready)

    await eventually(is_filled_again, 60.0)  # A new process.
    # An instance that died meanwhile leaves the view once the new directory is old enough to be sure.
    ray.kill(instances[1].actor)
    await until(lambda: watcher.states == {instances[0].id: InstanceState.READY}, 60.0)
    assert all(instances[0].id in view for view in watcher.views[seen:])


async def test_the_board_is_shared(fleet: str) -> None:
    async def is_posted() -> bool:
        try:
            await DirectoryClient(fleet).post("router/1", b"figures", 60.0)
        except TimeoutError:  # The directory's process is slow to start.
            return False
        return True

    await eventually(is_posted, 60.0)
    assert await DirectoryClient(fleet).board("router/") == {"router/1": b"figures"}


async def test_what_tenants_have_spent_and_what_is_kept_outlive_the_directory(fleet: str) -> None:
    client = DirectoryClient(fleet)
    limits = Limits(minute=1000)
    first = Claim("a", limits, wants=600)
    assert (await client.claim({"t": first}, 30.0))["t"] == Grant(600, None, 400, None, 0.0, 0.0)
    await client.keep("keys", b"tenants")
    ray.kill(ray.get_actor(NAME, namespace=fleet), no_restart=True)

    async def answered() -> bool:
        try:
            grant = (await client.claim({"t": Claim("b", limits, wants=500, least=500)}, 30.0))["t"]
        except (ray.exceptions.RayError, TimeoutError, ValueError):
            return False
        assert grant is not None
        assert (grant.granted, grant.free, grant.retry_after_s) == (0, 400, 1.0)
        return True

    await eventually(answered)
    spent = (await client.claim({"t": replace(first, wants=0, spent=100, returned=500)}, 30.0))["t"]
    assert spent is not None
    assert (spent.free, 59 < spent.reset_s < 62) == (900, True)
    digest, value = await client.kept("keys")
    assert (value, await client.kept("keys", digest)) == (b"tenants", (digest, None))
    await client.keep("keys", b"others")
    assert (await client.kept("keys", digest))[1] == b"others"
    assert await client.kept("nothing") == ("", None)
