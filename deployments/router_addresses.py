"""Where router replicas answer: each tells its node and address among its figures, and whoever deploys reads them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_NAME = "penstock_router_info"
_EVERY = {"0.0.0.0", "::", ""}  # noqa: S104 - read here, not listened on


@dataclass(frozen=True, slots=True, order=True)
class RouterAddress:
    """Where one router replica answers.

    Attributes:
        address: Host and port, as they stand in a URL.
        node: Ray's id of its node.
        router: Name of the replica.
    """

    address: str
    node: str
    router: str


def reachable(host: str, port: int, node_address: str) -> str:
    """Host and port, as they stand in a URL, where others find what listens on that host of a node."""
    there = node_address if host in _EVERY else host
    return f"[{there}]:{port}" if ":" in there else f"{there}:{port}"


class RouterInfo(Collector):
    """Tells where this replica answers.

    Args:
        at: That.
    """

    def __init__(self, at: RouterAddress) -> None:
        self._at = at

    def collect(self) -> Iterable[Metric]:
        """The metric."""
        family = GaugeMetricFamily(_NAME, "Where a router replica answers.", labels=["router", "node", "address"])
        family.add_metric([self._at.router, self._at.node, self._at.address], 1)
        return [family]


def told_addresses(posted: Mapping[str, bytes]) -> list[RouterAddress]:
    """Where the router replicas answer, out of the posted gauges (`deployments.metric_exchange`), in order."""
    found = {
        RouterAddress(**labels)
        for snapshot in posted.values()
        for name, _, _, samples in json.loads(snapshot)
        if name == _NAME
        for _, labels, _ in samples
    }
    return sorted(found)
