"""The nodes of the Ray cluster as a router replica knows them: asked now and then, beside its work.

Ray answers from its control service, which may be away for minutes: nobody waits for it here.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import ray
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from actors.daemon_thread import in_daemon_thread
from actors.instance.placement import nodes_with_room

logger = logging.getLogger(__name__)

ASK_EVERY_S = 10.0
_TOLD = {"CPU": "cpu", "GPU": "gpu"}


@dataclass(frozen=True, slots=True)
class Node:
    """A node that lives.

    Attributes:
        id: Ray's id of it.
        address: Its address on the cluster's network.
        resources: What it has, reserved or not.
    """

    id: str
    address: str
    resources: Mapping[str, float] = field(default_factory=dict)


def living_nodes() -> list[Node]:
    """The nodes that live. Asks Ray, which may take as long as its control service is away."""
    return [
        Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]
    ]


class ClusterNodes:
    """What is known of them.

    Args:
        read: Asks for them, in a thread.

    Attributes:
        known: Those of the last answer.
    """

    def __init__(self, read: Callable[[], Sequence[Node]] = living_nodes) -> None:
        self._read = read
        self.known: Sequence[Node] = ()

    async def follow(self) -> None:
        """Asks until cancelled."""
        while True:
            try:
                self.known = await in_daemon_thread(self._read)
            except Exception as error:  # noqa: BLE001 - Ray raises its own, and others, while its control service is away
                logger.info("The nodes are not known anew: %s: %s", type(error).__name__, error)
            await asyncio.sleep(ASK_EVERY_S)

    def with_room(self, needs: Mapping[str, float]) -> int:
        """How many of them could hold what needs so much; 0 as long as none is known."""
        return nodes_with_room(needs, [node.resources for node in self.known])

    def families(self) -> list[Metric]:
        """The nodes, for `/metrics`. Every replica tells the same ones, so they are not to be summed."""
        info = GaugeMetricFamily("penstock_node_info", "A node of the Ray cluster.", labels=["node", "address"])
        capacity = GaugeMetricFamily(
            "penstock_node_capacity", "CPUs and GPUs of a node, reserved or not.", labels=["node", "resource"]
        )
        for node in self.known:
            info.add_metric([node.id, node.address], 1)
            for name, told in _TOLD.items():
                if amount := node.resources.get(name):
                    capacity.add_metric([node.id, told], amount)
        return [info, capacity]
