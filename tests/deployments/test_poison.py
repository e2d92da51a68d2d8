"""A request that takes engines with it, sent again and again, among fifty that only stand beside it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from ray import serve

from actors.directory.known_instance import InstanceState
from clusters.chaos.counting import Arrivals, CountingLoad
from deployments.fleet_settings import FleetSettings
from deployments.handle import FleetHandle
from tests.deployments.test_fleet_life import free_port
from tests.deployments.waiting import until

INSTANCES = 6
BYSTANDERS = 50
NUMBERS = 100
SENT = 10
MOST_DEATHS = 3
ANSWERS_S = 240.0
CONVICTED = (500, "engine_fault")
QUARANTINED = (422, "quarantined")


@dataclass(frozen=True, slots=True)
class Harm:
    """What the request does to its engine.

    Attributes:
        faults: The simulated engine's option.
        timeout_s, stall_s, silence_s: When an engine that stands still, or says nothing, is given up. Where engines are
            killed nothing else is to end one: on a busy machine those that answer late are taken for dead, too.
        settled_s: Nothing else dies of it when nothing has died for so long.
    """

    faults: dict[str, str]
    timeout_s: float
    stall_s: float
    silence_s: float
    settled_s: float


HARM = {
    "kills": Harm({"kill": "poison"}, timeout_s=60.0, stall_s=30.0, silence_s=30.0, settled_s=4.0),
    "hangs": Harm({"hang": "poison"}, timeout_s=20.0, stall_s=10.0, silence_s=4.0, settled_s=40.0),
}
"""On a busy machine an engine that is well takes no step for some seconds, too."""


@pytest.mark.parametrize("harm", ["kills", pytest.param("hangs", marks=pytest.mark.long)])
async def test_it_is_convicted_and_nobody_else_sees_anything_of_it(
    harm: str, deploy: Callable[[FleetSettings], Any]
) -> None:
    settings = _fleet(HARM[harm])
    fleet = FleetHandle(await asyncio.to_thread(deploy, settings))
    url = f"http://127.0.0.1:{settings.http.port}"
    try:
        async with _watched(fleet) as seen, CountingLoad(url, "m", Arrivals(clients=BYSTANDERS), NUMBERS) as load:
            await until(lambda: len(load.open) == BYSTANDERS)
            # The directory outlives the fleet, and remembers.
            sent = [await _send(url, f"poison that {harm}") for _ in range(SENT)]
            await _settled(fleet, seen, HARM[harm].settled_s)
        assert len(seen) - INSTANCES <= MOST_DEATHS
        tally = load.take()
        assert tally.is_whole and not tally.cut, tally
        assert tally.served >= BYSTANDERS, tally
        assert sent == [CONVICTED] + [QUARANTINED] * (SENT - 1)
    finally:
        await asyncio.to_thread(serve.delete, settings.name)


def _fleet(harm: Harm) -> FleetSettings:
    model = {
        "name": "m",
        "engine": "simulated",
        "replicas": INSTANCES,
        "cpus": 0.1,
        "options": {"step_time": {"base_s": 0.05}, "faults": harm.faults},
        "health": {"period_s": 1, "timeout_s": harm.timeout_s, "canary_idle_s": 3},
        "patience": {"stall_s": harm.stall_s},
    }
    router = {"replicas": 2, "cpus": 0.1}
    return FleetSettings.model_validate(
        {
            "name": "poison",
            "http": {"port": free_port()},
            "router": router,
            "channel": {"silence_s": harm.silence_s},
            "models": [model],
        }
    )


async def _send(url: str, text: str) -> tuple[int, str]:
    """Status and code of the answer, on a connection of its own, which any of the replicas may take."""
    body = {"model": "m", "messages": [{"role": "user", "content": f"count from 1 to 20: {text}"}], "temperature": 0}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/chat/completions", json=body, timeout=aiohttp.ClientTimeout(ANSWERS_S)) as answer,
    ):
        return answer.status, (await answer.json()).get("error", {}).get("code", "")


@asynccontextmanager
async def _watched(fleet: FleetHandle) -> AsyncIterator[set[str]]:
    """The ids of all instances that were ever ready; what takes the place of one that died has an id of its own."""
    seen: set[str] = set()

    async def watch() -> None:
        while True:
            seen.update(await _ready(fleet))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        task.cancel()


async def _ready(fleet: FleetHandle) -> set[str]:
    return {instance.id for instance in await fleet.instances() if instance.state is InstanceState.READY}


async def _settled(fleet: FleetHandle, seen: set[str], quiet_s: float) -> None:
    """Waits until there are as many instances as there should be, and no other has come for a while."""
    async with asyncio.timeout(ANSWERS_S):
        while True:
            before = len(seen)
            await asyncio.sleep(quiet_s)
            if len(seen) == before and len(await _ready(fleet)) == INSTANCES:
                return
