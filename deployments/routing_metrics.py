"""What a router replica tells in `/metrics` of how it picks instances."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deployments.routing.placements import Placements


class RoutingFigures(Collector):
    """Counters of what was expected of caches, and of what that cost.

    Args:
        placements: Of each model, by its name.
    """

    def __init__(self, placements: Mapping[str, Placements]) -> None:
        self._placements = placements

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        expected = CounterMetricFamily(
            "penstock_routing_cached_tokens",
            "Tokens of prompts taken for cached where they were sent (predicted), and found there (real).",
            labels=["model", "kind"],
        )
        resyncs = CounterMetricFamily(
            "penstock_routing_resyncs",
            "How often all that an instance has cached was heard anew, or forgotten, because news were missed.",
            labels=["model"],
        )
        costs = CounterMetricFamily(
            "penstock_routing_cost_seconds",
            "Seconds that the requests were expected to wait for their first tokens, by what for.",
            labels=["model", "term"],
        )
        for model, placements in self._placements.items():
            prefixes, cost = placements.prefixes, placements.costs
            expected.add_metric([model, "predicted"], prefixes.predicted_tokens)
            expected.add_metric([model, "real"], prefixes.cached_tokens)
            resyncs.add_metric([model], prefixes.resyncs)
            costs.add_metric([model, "prompt"], cost.own_s)
            costs.add_metric([model, "queue"], cost.queued_s)
            costs.add_metric([model, "decoding"], cost.decoding_s)
        return [expected, resyncs, costs]
