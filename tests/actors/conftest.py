"""Instances in real engine actors."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import ray

from actors.channel.calls import result
from actors.channel.egress import Egress
from actors.channel.listener import Listener
from actors.directory.client import NAME
from actors.directory.known_instance import Instance
from actors.instance.engine_actor import create_engine_actor
from actors.settings import AdmissionSettings, ChannelSettings, PatienceSettings, SleepSettings
from engines.registry import EngineSpec
from tests.actors.channel_reader import eventually, spec

BRISK = ChannelSettings(heartbeat_s=0.2, silence_s=2.0)

_numbers = itertools.count()

Start = Callable[..., Any]


def _kill_directory(fleet: str) -> None:
    with suppress(ValueError):  # Some tests never ask for one.
        ray.kill(ray.get_actor(NAME, namespace=fleet))


@pytest.fixture
def fleet(ray_cluster: None) -> Iterator[str]:
    """A fleet of its own for each test; its directory ends with it."""
    name = f"fleet-{next(_numbers)}"
    yield name
    _kill_directory(name)


@pytest.fixture(scope="session")
def shared_actors(ray_cluster: None) -> Iterator[dict[str, tuple[Any, Instance]]]:
    """Actors by what they were made from, for the tests that leave them as they found them: a process is slow to start.

    The first handle is kept, because an actor ends with the handle that its creator holds.
    """
    actors: dict[str, tuple[Any, Instance]] = {}
    yield actors
    for actor, _ in actors.values():
        ray.kill(actor)
    _kill_directory("shared")


@pytest.fixture
async def share(shared_actors: dict[str, tuple[Any, Instance]]) -> AsyncIterator[Start]:
    """Opens a channel to an engine actor with this script; other tests use the actor, too."""
    opened: list[tuple[Instance, Egress]] = []

    async def connect(
        script: Sequence[Any], admission: AdmissionSettings | None = None, channel: ChannelSettings = BRISK
    ) -> tuple[Instance, Egress]:
        key = repr((script, admission, channel))
        if key not in shared_actors:
            id = f"shared-{len(shared_actors)}"
            actor = create_engine_actor(
                id, "shared", spec(script), admission or AdmissionSettings(), channel, options={"num_cpus": 0}
            )
            shared_actors[key] = actor, await result(actor.boot.remote(), id)
        _, instance = shared_actors[key]
        egress = Egress(instance, channel)
        opened.append((instance, egress))
        await egress.start()
        return instance, egress

    yield connect
    for instance, egress in opened:
        await egress.stop()

        async def is_free(instance: Instance = instance) -> bool:
            return (await instance.actor.describe.remote()).load.running == 0  # type: ignore[no-any-return]

        await eventually(is_free)


@pytest.fixture
async def start(fleet: str) -> AsyncIterator[Start]:
    """Boots an engine actor of the test's own with this script, or with this engine, and opens a channel to it."""
    made: list[Any] = []
    opened: list[Egress] = []

    async def boot(
        script: Sequence[Any],
        admission: AdmissionSettings | None = None,
        channel: ChannelSettings = BRISK,
        listener: Listener | None = None,
        patience: PatienceSettings | None = None,
        engine: EngineSpec | None = None,
        sleep: SleepSettings | None = None,
        **options: Any,
    ) -> tuple[Instance, Egress]:
        id = f"demo-{len(made)}"
        actor = create_engine_actor(
            id,
            fleet,
            engine or spec(script, **options),
            admission or AdmissionSettings(),
            channel,
            options={"num_cpus": 0},
            sleep=sleep,
        )
        made.append(actor)
        instance = await result(actor.boot.remote(), id)
        egress = Egress(instance, channel, listener, patience)
        opened.append(egress)
        await egress.start()
        return instance, egress

    yield boot
    for egress in opened:
        await egress.stop()
    for actor in made:
        ray.kill(actor)
