"""What can be hurt in a fleet, and how to reach it: every process is signalled on its own node, through Ray."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import ray
from ray import serve
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.directory.client import NAME as DIRECTORY
from actors.directory.client import DirectoryClient
from actors.directory.known_instance import Instance, InstanceState
from deployments.app import deploy
from deployments.cluster_nodes import living_nodes
from deployments.serve_private import CONTROLLER

_RETRY_S = 0.2
_ASKS = 20
"""How often Serve is asked for a router, so that each of a few will have answered."""
_HEAD = "node:__internal_head__"


class Targets:
    """The processes of one fleet. This process must be connected to its Ray cluster.

    Args:
        fleet: Name of the fleet.
    """

    def __init__(self, fleet: str) -> None:
        self._fleet = fleet
        self._directory = DirectoryClient(fleet)
        # The directory shows them until their lease is over.
        self._taken: set[str] = set()

    async def instances(self) -> list[Instance]:
        """The instances that are ready, sorted by id. Waits for a directory that was killed."""
        while True:
            try:
                view = await self._directory.snapshot()
            except (RayError, TimeoutError):
                await asyncio.sleep(_RETRY_S)
                continue
            if view.is_complete:
                break
            await asyncio.sleep(_RETRY_S)
        instances = [view.instances[id] for id in sorted(view.instances) if id not in self._taken]
        return [instance for instance in instances if instance.state is InstanceState.READY]

    async def engine_processes(self, instance: Instance) -> list[int]:
        """The processes that an engine has besides its actor's, its core first, on whatever node it is."""
        pids: list[int] = await _on_node(instance.node, engine_pids, instance.pid)
        return pids

    async def take(self, instance: Instance, pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
        """Signals processes without which the instance is nothing: it does not count any more."""
        self._taken.add(instance.id)
        await self.signal(instance.node, pids, number)

    async def signal(self, node: str, pids: list[int], number: signal.Signals) -> None:
        """Signals processes of a node.

        On the node that this process is on too, at once: it takes Ray long enough to start a worker there for what
        the processes carried to have come to its end.

        Raises:
            ProcessLookupError: One is gone.
        """
        if node == ray.get_runtime_context().get_node_id():
            _signal(pids, number)
        else:
            await _on_node(node, _signal, pids, number)

    async def kill_node(self, node: str, about_to: Callable[[], None]) -> list[str]:
        """Kills every process of a node, its raylet first; the ids of the instances that it held.

        Args:
            node: Ray's id of it.
            about_to: Called right before.
        """
        taken = await self.leave_out(node)
        pids = await _on_node(node, node_pids)
        about_to()
        # Nobody is left to answer, and how long Ray takes to notice is no part of the harm.
        _task(node, _signal_all, pids, signal.SIGKILL)
        return taken

    async def killable_nodes(self) -> set[str]:
        """The nodes that can die and leave the cluster and the connections of clients alive, as far as is known."""
        handle = serve.get_app_handle(self._fleet)
        routers = {node for node, *_ in await asyncio.gather(*(handle.process.remote() for _ in range(_ASKS)))}
        nodes = {node.id for node in living_nodes() if _HEAD not in node.resources}
        return nodes - routers

    async def leave_out(self, node: str) -> list[str]:
        """The ids of the ready instances of a node that is about to die; they do not count any more."""
        taken = [instance.id for instance in await self.instances() if instance.node == node]
        self._taken.update(taken)
        return taken

    async def directory(self) -> Any:
        """The fleet's directory: an actor."""
        return await asyncio.to_thread(ray.get_actor, DIRECTORY, self._fleet)

    async def controller(self) -> Any:
        """Serve's controller: an actor."""
        return await asyncio.to_thread(ray.get_actor, *CONTROLLER)

    async def kill(self, *actors: Any) -> None:
        """Kills actors, which Ray starts again."""
        for actor in actors:
            # In a thread: Ray may take seconds, and the load must be read meanwhile.
            await asyncio.to_thread(ray.kill, actor, no_restart=False)

    async def kill_a_router(self) -> None:
        """Kills one router replica, that which carries most; Serve starts another."""
        handle = serve.get_app_handle(self._fleet)
        # Serve asks any that is not about to end; one that has just come up would not be missed.
        replicas = await asyncio.gather(*(handle.process.remote() for _ in range(_ASKS)))
        node, pid, _ = max(replicas, key=lambda replica: replica[2])
        await self.signal(node, [pid], signal.SIGKILL)

    async def upgrade(self) -> None:
        """Deploys the fleet anew as it is, and waits until every replica was replaced."""
        before = {instance.id for instance in await self.instances()}
        settings = await serve.get_app_handle(self._fleet).settings.remote()
        await asyncio.to_thread(deploy, settings)
        while not before.isdisjoint(instance.id for instance in await self.instances()):  # noqa: ASYNC110
            await asyncio.sleep(_RETRY_S)


async def _on_node(node: str, work: Callable[..., object], *arguments: object) -> Any:
    return await _task(node, work, *arguments)


def _task(node: str, work: Callable[..., object], *arguments: object) -> Any:
    remote = ray.remote(work).options(
        num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
    )
    return remote.remote(*arguments)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    """Signals processes; those that are gone are left out, and this process comes last."""
    for pid in sorted(pids, key=lambda pid: pid == os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def node_pids() -> list[int]:
    """The processes of the node that this process is a worker of, its raylet first: nobody reports the others' end."""
    raylet = next(parent for parent in psutil.Process().parents() if parent.name() == "raylet")
    return [raylet.pid, *(child.pid for child in raylet.children(recursive=True))]


def engine_pids(actor: int) -> list[int]:
    """The processes that an engine has besides its actor's, its core first; a simulated engine has none."""
    found = []
    for child in psutil.Process(actor).children(recursive=True):
        # One that has just ended is no more of it.
        with suppress(psutil.NoSuchProcess):
            # Python's own, which knows of shared memory: no engine stops without it.
            if not any("resource_tracker" in part for part in child.cmdline()):
                found.append((child.create_time(), child.pid))
    # By age: the system's numbers begin anew at some time, and psutil goes by them.
    return [pid for _, pid in sorted(found)]
