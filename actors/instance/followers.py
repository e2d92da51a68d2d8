"""The further nodes of an instance that spreads over several: an actor on each, beside the instance's own.

They live and die with it. Made by its actor, they end when that does: Ray kills an actor whose owner has died, and the
kernel what the actor has started. When one of them ends, the instance is finished.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from engines.errors import EngineDead, PenstockError
from engines.registry import EngineSpec, NodePart, make_follower


class FollowerActor:
    """The ranks of an engine on one further node, pinned to their GPUs.

    Args:
        instance_id: The instance that they belong to.
        spec: What its engine is made from.
        node_rank: Which of its nodes this is.
        master_addr: Where its ranks meet.
        master_port: At which port.
    """

    def __init__(self, instance_id: str, spec: EngineSpec, node_rank: int, master_addr: str, master_port: int) -> None:
        part = NodePart(node_rank=node_rank, address=_own_address(), master_addr=master_addr, master_port=master_port)
        self._follower = make_follower(instance_id, spec.model_copy(update={"part": part}))

    async def run(self) -> None:
        """Works; raises a PenstockError when it ends."""
        await self._follower.run()


class Followers:
    """The followers of one instance; without any where it lives on one node.

    Made in the instance's actor, on its first node.

    Args:
        instance_id: The instance.
        name: Name of its actor, with which theirs begin.
        fleet: Name of the fleet.
        spec: What its engine is made from.
        options: Ray's options for each of them, in the order of their nodes.

    Attributes:
        spec: What the engine is made from here, on the first node.
    """

    def __init__(
        self, instance_id: str, name: str, fleet: str, spec: EngineSpec, options: Sequence[Mapping[str, Any]]
    ) -> None:
        self._id = instance_id
        self._name = name
        self._fleet = fleet
        self._spec = spec
        self._options = options
        self._actors: list[Any] = []
        self._ends: list[Any] = []
        self.spec = spec
        if options:
            address = _own_address()
            port = _free_port()
            part = NodePart(node_rank=0, address=address, master_addr=address, master_port=port)
            self.spec = spec.model_copy(update={"part": part})

    def start(self) -> None:
        """Starts them: they wait for the engine of the first node, and that for them."""
        part = self.spec.part
        for node_rank, options in enumerate(self._options, start=1):
            assert part is not None
            actor = (
                ray.remote(FollowerActor)
                .options(
                    name=f"{self._name}.node-{node_rank}",
                    namespace=self._fleet,
                    max_restarts=0,
                    max_task_retries=0,
                    **options,
                )
                .remote(self._id, self._spec, node_rank, part.master_addr, part.master_port)
            )
            self._actors.append(actor)
            self._ends.append(actor.run.remote())

    async def ended(self) -> EngineDead:
        """Waits for the first of them to end, for ever if there is none; why."""
        if not self._ends:
            never: asyncio.Future[EngineDead] = asyncio.get_running_loop().create_future()
            return await never
        ends = {asyncio.ensure_future(_end(run)): rank for rank, run in enumerate(self._ends, start=1)}
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        first = done.pop()
        return EngineDead(
            f"The instance {self._id} has lost its node of rank {ends[first]}: {first.result()}",
            instance=self._id,
        )

    def kill(self) -> None:
        """Ends them, with all that they have started."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()


async def _end(run: Any) -> str:
    """Waits for the end of a follower's work; why it has ended."""
    try:
        await run
    except RayTaskError as error:
        return error.cause.message if isinstance(error.cause, PenstockError) else repr(error.cause)
    except RayError as error:
        return (str(error).splitlines() or ["its actor died"])[0]
    return "it has nothing to do any more"


def _own_address() -> str:
    return str(ray.util.get_node_ip_address())


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("", 0))
        return int(taken.getsockname()[1])
