"""What can be hurt in a fleet, and how to reach it: every process is signalled on its own node, through Ray."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.directory_client import NAME as DIRECTORY
from actors.directory_client import DirectoryClient
from actors.instance import Instance, InstanceState
from clusters.errors import ClusterError
from deployments.app import ROUTER

_RETRY_S = 0.2
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

    async def instances(self) -> list[Instance]:
        """The instances that are ready, by id. Waits for a directory that was killed."""
        while True:
            try:
                view = await self._directory.snapshot()
            except (RayError, TimeoutError):
                await asyncio.sleep(_RETRY_S)
                continue
            if view.is_complete:
                break
            await asyncio.sleep(_RETRY_S)
        ready = [instance for instance in view.instances.values() if instance.state is InstanceState.READY]
        return sorted(ready, key=lambda instance: instance.id)

    async def engine_processes(self, instance: Instance) -> list[int]:
        """The processes that the engine of an instance has besides its actor's; a simulated engine has none."""
        pids: list[int] = await _on_node(instance.node, _children, instance.pid)
        return pids

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

    def kill_a_router(self) -> None:
        """Kills one router replica; Serve starts another.

        Raises:
            ClusterError: There is none.
        """
        prefix = f"SERVE_REPLICA::{self._fleet}#{ROUTER}#"
        actors = ray.util.list_named_actors(all_namespaces=True)
        name = next((str(actor["name"]) for actor in actors if str(actor["name"]).startswith(prefix)), None)
        if name is None:
            raise ClusterError(f"The fleet {self._fleet!r} has no router replica.")
        ray.kill(ray.get_actor(name, namespace=_SERVE))


async def _on_node(node: str, work: Callable[..., object], *arguments: object) -> Any:
    remote = ray.remote(work).options(
        num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
    )
    return await remote.remote(*arguments)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
