"""The further nodes of an instance: in real actors, around an engine that has nothing there."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import ray

from actors.channel.calls import result
from actors.channel.egress import Egress
from actors.directory.known_instance import InstanceState
from actors.instance.engine_actor import create_engine_actor
from actors.settings import AdmissionSettings, ChannelSettings
from engines.context import Context
from engines.errors import EngineDead, EngineFailed, InstanceLost
from engines.registry import EngineSpec
from tests.actors.channel_reader import eventually, request, spec

Spread = Callable[..., Any]


def over_nodes(nnodes: int, script: list[Any], **options: Any) -> EngineSpec:
    return spec(script, **options).model_copy(update={"tensor_parallel_size": nnodes, "nnodes": nnodes})


def follower(fleet: str, node_rank: int) -> Any:
    return ray.get_actor(f"wide.0.node-{node_rank}", namespace=fleet)


async def is_gone(fleet: str) -> bool:
    try:
        await follower(fleet, 1).__ray_ready__.remote()
    except (ValueError, ray.exceptions.RayActorError):
        return True
    return False


@pytest.fixture
async def spread(fleet: str) -> AsyncIterator[Spread]:
    """Makes an instance over several nodes, which are all this one."""
    made = []

    def make(made_of: EngineSpec) -> Any:
        nothing: dict[str, Any] = {"num_cpus": 0}
        actor = create_engine_actor(
            "wide",
            fleet,
            made_of,
            AdmissionSettings(),
            ChannelSettings(heartbeat_s=0.2),
            options=nothing,
            followers=[nothing] * (made_of.nnodes - 1),
        )
        made.append(actor)
        return actor

    yield make
    for actor in made:
        ray.kill(actor)


async def test_a_follower_that_dies_takes_the_instance_along_at_once_with_the_reason(
    fleet: str, spread: Spread
) -> None:
    actor = spread(over_nodes(3, [{"say": "a"}, 600.0]))
    instance = await result(actor.boot.remote(), "wide")
    egress = Egress(instance, ChannelSettings())
    await egress.start()
    with pytest.raises(InstanceLost):
        async for event in egress.generate(request(), Context()):
            if getattr(event, "text", ""):
                ray.kill(follower(fleet, 2))
    gone = await actor.describe.remote()
    assert gone.state is InstanceState.GONE
    assert gone.detail.startswith("The instance wide has lost its node of rank 2: "), gone.detail
    with pytest.raises(EngineDead, match="node of rank 2"):
        await result(actor.check_health.remote(), "wide")
    await egress.stop()


async def test_a_follower_that_cannot_start_ends_the_boot_with_its_reason(spread: Spread) -> None:
    error = {"error": "EngineFailed", "message": "its disk is empty"}
    actor = spread(over_nodes(2, [], boot_s=600, follower_error=error))
    with pytest.raises(EngineFailed, match="lost its node of rank 1: its disk is empty"):
        await result(actor.boot.remote(), "wide")


@pytest.mark.parametrize("is_asked", [True, False])
async def test_no_follower_outlives_the_instance(fleet: str, spread: Spread, is_asked: bool) -> None:
    actor = spread(over_nodes(2, []))
    await result(actor.boot.remote(), "wide")
    assert not await is_gone(fleet)
    if is_asked:
        await result(actor.stop.remote(), "wide")
        assert (await actor.describe.remote()).detail == "stopped"
    else:
        ray.kill(actor)
    await eventually(lambda: is_gone(fleet))
