"""A Ray cluster on this machine, with nodes beside its head that can die in several ways.

Either every process of a node is killed, and the kernel closes its connections; or its network is cut, and nothing is
heard of it any more, not even that; or it fades: one of its instances dies, which is heard of, and then its network.
For the latter two each node lives in a network namespace, which takes root.
"""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

from ray.cluster_utils import Cluster

from clusters.chaos.targets import Targets
from deployments.cluster_nodes import living_nodes
from tests.network_namespaces import Namespace, NamespaceNetwork

HEAD = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
STORE_BYTES = 80 * 2**20
JOIN_S = 60.0
FADE_S = 0.05
"""From the death of a node's first instance to that of its network: streams have moved by then."""


class KillableNodes(Protocol):
    """A cluster whose nodes can die. This process must be connected to it before one is added.

    Attributes:
        address: Of the cluster.
    """

    address: str

    async def add(self, resources: dict[str, float]) -> None:
        """Adds a node that has these resources and no CPUs; returns once it is there."""

    async def end(self, node: str, targets: Targets, about_to: Callable[[], None]) -> list[str]:
        """Lets the node with this id die, right after the callback; the ids of the instances that it held."""

    def close(self) -> None:
        """Ends the cluster."""


class KilledNodes:
    """Nodes whose every process is killed at once."""

    def __init__(self) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        self.address: str = self._cluster.address

    async def add(self, resources: dict[str, float]) -> None:
        """As `KillableNodes.add`."""
        # Here and not in a thread: Ray sets a signal handler.
        self._cluster.add_node(num_cpus=0, resources=resources, object_store_memory=STORE_BYTES)

    async def end(self, node: str, targets: Targets, about_to: Callable[[], None]) -> list[str]:
        """As `KillableNodes.end`."""
        return await targets.kill_node(node, about_to)

    def close(self) -> None:
        """As `KillableNodes.close`."""
        self._cluster.shutdown()


class CutNodes:
    """Nodes whose network is cut; needs root.

    Args:
        fade: Whether an instance of the node is killed before that.
    """

    def __init__(self, *, fade: bool) -> None:
        self._fade = fade
        self._nodes: dict[str, Namespace] = {}  # By address.
        self._network = NamespaceNetwork("pst", "10.77.0")
        head = HEAD | {"node_ip_address": self._network.address}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address

    async def add(self, resources: dict[str, float]) -> None:
        """As `KillableNodes.add`."""
        node = self._network.add()
        self._nodes[node.address] = node
        command = node.command(sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=0")
        command += [f"--address={self.address}", f"--node-ip-address={node.address}"]
        command += [f"--resources={json.dumps(resources)}", f"--object-store-memory={STORE_BYTES}"]
        command += ["--disable-usage-stats"]
        await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + JOIN_S
        while node.address not in (one.address for one in living_nodes()):
            if time.monotonic() > deadline_s:
                sys.exit(f"The node {node.address} does not join.")
            await asyncio.sleep(0.1)

    async def end(self, node: str, targets: Targets, about_to: Callable[[], None]) -> list[str]:
        """As `KillableNodes.end`."""
        [address] = [one.address for one in living_nodes() if one.id == node]
        first = next(instance for instance in await targets.instances() if instance.node == node)
        # Also starts the worker that kills it.
        await targets.engine_processes(first)
        taken = await targets.leave_out(node)
        about_to()
        if self._fade:
            await targets.signal(node, [first.pid], signal.SIGKILL)
            await asyncio.sleep(FADE_S)
        self._nodes[address].cut()
        return taken

    def close(self) -> None:
        """As `KillableNodes.close`."""
        # Nodes whose network is cut do not hear that the cluster ends.
        self._network.kill()
        self._cluster.shutdown()
        self._network.close()
