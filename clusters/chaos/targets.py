"""What can be hurt in a fleet, and how to reach it: every process is signalled on its own node, through Ray."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import ray
from ray import serve
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.directory_client import NAME as DIRECTORY
from actors.directory_client import DirectoryClient
from actors.instance import Instance, InstanceState
from deployments.app import deploy

_RETRY_S = 0.2
_ASKS = 20
"""How often Serve is asked for a router that carries requests."""
_SERVE = "serve"
"""Ray namespace of Serve's own actors."""
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"


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
        """As `engine_pids`, on whatever node it is."""
        pids: list[int] = await _on_node(instance.node, engine_pids, instance.pid)
        return pids

    async def take(self, instance: Instance, pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
        """Signals processes without which the instance is nothing: it does not count any more."""
        self._taken.add(instance.id)
        await self.signal(instance.node, pids, number)

    async def signal(self, node: str, pids: list[int], number: signal.Signals) -> None:
        """Signals processes of a node.

        Raises:
            ProcessLookupError: One is gone.
        """
        await _on_node(node, _signal, pids, number)

    def kill_directory(self) -> None:
        """Kills the directory; Ray starts it again."""
        ray.kill(ray.get_actor(DIRECTORY, namespace=self._fleet), no_restart=False)

    def kill_controller(self) -> None:
        """Kills Serve's controller; Ray starts it again."""
        ray.kill(ray.get_actor(_CONTROLLER, namespace=_SERVE), no_restart=False)

    async def kill_a_router(self) -> None:
        """Kills one router replica; Serve starts another."""
        handle = serve.get_app_handle(self._fleet)
        for _ in range(_ASKS):
            # Serve asks any that is not about to end; one that has just come up would not be missed.
            node, pid, carries = await handle.process.remote()
            if carries:
                break
        await self.signal(node, [pid], signal.SIGKILL)

    async def upgrade(self) -> None:
        """Deploys the fleet anew as it is, and waits until every replica was replaced."""
        before = {instance.id for instance in await self.instances()}
        settings = await serve.get_app_handle(self._fleet).settings.remote()
        await asyncio.to_thread(deploy, settings)
        while not before.isdisjoint(instance.id for instance in await self.instances()):  # noqa: ASYNC110
            await asyncio.sleep(_RETRY_S)


async def _on_node(node: str, work: Callable[..., object], *arguments: object) -> Any:
    remote = ray.remote(work).options(
        num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
    )
    return await remote.remote(*arguments)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def engine_pids(actor: int) -> list[int]:
    """The processes that an engine has besides its actor's, its core first; a simulated engine has none."""
    children = psutil.Process(actor).children(recursive=True)
    # Python's own, which knows of shared memory: no engine stops without it.
    return [child.pid for child in children if not any("resource_tracker" in part for part in child.cmdline())]
