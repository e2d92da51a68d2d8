"""How a fleet comes up, loses an instance, and goes down, with everything real but the models."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import ray
from ray import serve

from actors.directory.client import DirectoryClient
from actors.directory.known_instance import Instance, InstanceState
from deployments.app import build
from deployments.fleet_settings import FleetSettings
from deployments.handle import FleetHandle
from deployments.names import ROUTER
from engines.errors import InstanceLost, NoInstance
from engines.events import Started
from tests.deployments.waiting import until


def fleet_of(name: str, **model: object) -> FleetSettings:
    return FleetSettings.model_validate(
        {
            "name": name,
            "http": {"port": 0},
            "router": {"cpus": 0.1},
            "models": [{"name": "m", "engine": "scripted", "cpus": 0.1, "drain_timeout_s": 30, **model}],
        }
    )


@pytest.fixture
async def launch(serve_cluster: None) -> AsyncIterator[Callable[[FleetSettings], Awaitable[FleetHandle]]]:
    """Deploys a fleet without waiting for its instances; takes it down at the end."""
    names: list[str] = []

    async def run(settings: FleetSettings) -> FleetHandle:
        names.append(settings.name)
        target = serve.RunTarget(build(settings), name=settings.name, route_prefix=None)
        await asyncio.to_thread(
            serve.run_many,
            [target],
            wait_for_ingress_deployment_creation=True,
            wait_for_applications_running=False,
        )
        return FleetHandle(serve.get_deployment_handle(ROUTER, settings.name))

    yield run
    for name in names:
        await asyncio.to_thread(serve.delete, name)


async def ready_instances(fleet: FleetHandle) -> list[Instance]:
    return [instance for instance in await fleet.instances() if instance.state is InstanceState.READY]


async def connected(fleet: FleetHandle, instances: int) -> None:
    """Waits until the router reaches so many instances: one is known to be ready a moment before."""

    async def all_open() -> bool:
        return sum(card.ready for card in await fleet.models()) == instances

    await until(all_open)


async def replaced(fleet: FleetHandle, victim: Instance, instances: int) -> None:
    """Waits until so many others are ready."""

    async def is_replaced() -> bool:
        ready = {instance.id for instance in await ready_instances(fleet)}
        return len(ready) == instances and victim.id not in ready

    await until(is_replaced)


Launch = Callable[[FleetSettings], Awaitable[FleetHandle]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_routers_share_a_port_and_listen_while_an_engine_boots(launch: Launch) -> None:
    port = free_port()
    models = [
        {"name": "quick", "engine": "scripted", "cpus": 0.1},
        {"name": "slow", "engine": "scripted", "cpus": 0.1, "options": {"boot_s": 3600}},
    ]
    fleet = await launch(
        FleetSettings.model_validate(
            {"name": "boots", "http": {"port": port}, "router": {"replicas": 2, "cpus": 0.1}, "models": models}
        )
    )

    async def both_listen() -> bool:
        router = serve.status().applications["boots"].deployments[ROUTER]
        return router.replica_states == {"RUNNING": 2}

    await until(both_listen)

    async def is_booting() -> bool:
        states = {instance.model: instance.state.value for instance in await fleet.instances()}
        return states == {"quick": "ready", "slow": "starting"}

    await until(is_booting)
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/ready") as answer:
        assert answer.status == 503
    with pytest.raises(NoInstance, match="1 starting"):
        await fleet.complete({"model": "slow", "prompt": "x"})
    assert (await fleet.complete({"model": "quick", "prompt": "hello"})).text == "hello"


async def test_a_killed_instance_is_lost_to_its_requests_and_replaced(launch: Launch) -> None:
    settings = fleet_of(
        "dies",
        replicas=2,
        options={"script": ["x", {"hang": True}]},
        health={"period_s": 0.5},
        pipeline=[],
    )
    fleet = await launch(settings)

    await connected(fleet, 2)
    victim = (await ready_instances(fleet))[0]
    stream = fleet.generate({"model": "m", "prompt": "x", "instance": victim.id})
    assert isinstance(await anext(stream), Started)
    ray.kill(victim.actor)
    with pytest.raises(InstanceLost):
        async for _ in stream:
            pass
    await replaced(fleet, victim, 2)
    await connected(fleet, 2)
    known = (await DirectoryClient(settings.name).snapshot()).instances
    assert victim.id not in known
    # Requests find the new one.
    newest = max(await ready_instances(fleet), key=lambda instance: instance.since_s)
    stream = fleet.generate({"model": "m", "prompt": "x", "instance": newest.id})
    assert isinstance(await anext(stream), Started)
    await stream.aclose()


async def test_an_actor_that_hangs_is_killed_and_replaced(launch: Launch) -> None:
    fleet = await launch(fleet_of("freezes", health={"period_s": 0.5, "timeout_s": 3}))
    await connected(fleet, 1)
    (victim,) = await ready_instances(fleet)
    os.kill(victim.pid, signal.SIGSTOP)
    await replaced(fleet, victim, 1)
    await until(lambda: not _lives(victim.pid))


async def test_an_engine_that_hangs_is_replaced_without_waiting_for_its_streams(launch: Launch) -> None:
    health = {"period_s": 0.5, "timeout_s": 4, "canary_idle_s": 1}
    options = {"script": [{"hang": True}]}
    # It would get ten minutes for its streams if it worked.
    fleet = await launch(fleet_of("hangs", options=options, health=health, drain_timeout_s=600, pipeline=[]))
    await connected(fleet, 1)
    (victim,) = await ready_instances(fleet)
    with pytest.raises(InstanceLost):
        await fleet.complete({"model": "m", "prompt": "x", "instance": victim.id})
    await replaced(fleet, victim, 1)


async def test_going_down_lets_a_stream_end_and_leaves_no_process(launch: Launch) -> None:
    fleet = await launch(fleet_of("drains", options={"script": [{"say": "tick ", "times": 30, "every_s": 0.1}]}))
    await connected(fleet, 1)
    (instance,) = await ready_instances(fleet)
    url = f"http://127.0.0.1:{await fleet._handle.http_port.remote()}/v1/completions"
    body = {"model": "m", "prompt": "x", "stream": True}
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:
        lines = aiter(answer.content)
        first = await anext(lines)
        deleting = asyncio.create_task(asyncio.to_thread(serve.delete, "drains"))
        rest = [line async for line in lines]
    await deleting
    events = [line.removeprefix(b"data: ").strip() for line in [first, *rest] if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    texts = [choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert "".join(texts) == "tick " * 30

    await until(lambda: not _lives(instance.pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_an_instance_that_cannot_boot_says_why(serve_cluster: None) -> None:
    options: dict[str, Any] = {"boot_error": {"error": "EngineFailed", "message": "No such weights."}}
    settings = fleet_of("fails", options=options)
    try:
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(serve.run, build(settings), name=settings.name, route_prefix=None)
        deployments = serve.status().applications[settings.name].deployments
        assert "No such weights" in deployments["engine-m"].message
    finally:
        await asyncio.to_thread(serve.delete, settings.name)
