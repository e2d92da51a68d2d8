"""What a router replica tells of autoscaling in `/metrics`: what it holds, and what the policy decided, and why."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deployments.routing.held_requests import HeldRequests
from deployments.scaling.bulletin import KEY
from engines.errors import Unavailable

logger = logging.getLogger(__name__)

READ_EVERY_S = 3.0
SILENT_AFTER_S = 60.0
"""A policy that was not heard of for so long is not run: it decides every second."""


class _OfModels(Collector):
    """One figure of the requests of each model that wait for an instance at this replica.

    Args:
        family: Makes the metric, which has a label for the model.
        held: The requests, by model.
        value: The figure.
    """

    def __init__(
        self,
        family: Callable[[], GaugeMetricFamily | CounterMetricFamily],
        held: Mapping[str, HeldRequests],
        value: Callable[[HeldRequests], int],
    ) -> None:
        self._family = family
        self._held = held
        self._value = value

    def collect(self) -> Iterable[Metric]:
        """The metric."""
        family = self._family()
        for model, requests in self._held.items():
            family.add_metric([model], self._value(requests))
        return [family]


def held_requests(held: Mapping[str, HeldRequests]) -> Collector:
    """How many requests wait for an instance of each model: a gauge."""
    what = "Requests that wait for an instance to boot."
    return _OfModels(lambda: GaugeMetricFamily("penstock_held_requests", what, labels=["model"]), held, len)


def cold_starts(held: Mapping[str, HeldRequests]) -> Collector:
    """How many requests found no instance of their model at all: a counter."""
    what = "Requests that found no instance of their model, and waited."
    return _OfModels(
        lambda: CounterMetricFamily("penstock_cold_starts", what, labels=["model"]),
        held,
        lambda requests: requests.cold_starts,
    )


def target_instances(targets: Mapping[str, int]) -> Metric:
    """The instances that each model is to have, by its name. All replicas tell the same: it is not to be summed."""
    what = "Instances that a model is to have: the fleet file's number, or what the policy has asked Serve for last."
    family = GaugeMetricFamily("penstock_target_instances", what, labels=["model"])
    for model, target in targets.items():
        family.add_metric([model], target)
    return family


class PolicyNews:
    """What the policy in Serve's controller decided last, as it posts it on the directory's board.

    Args:
        models: Names of the models whose instances follow their load, by their engine deployments.
        read: Reads the values of the board whose key begins so.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        read: Callable[[str], Awaitable[Mapping[str, bytes]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._read = read
        self._clock = clock
        self._decisions: Mapping[str, Mapping[str, Any]] = {}
        self._heard_s = clock()
        self._has_complained = False

    @property
    def is_silent(self) -> bool:
        """Whether it was not heard of for so long that it cannot be run."""
        return bool(self._models) and self._clock() - self._heard_s > SILENT_AFTER_S

    def measured(self) -> Mapping[str, float]:
        """The prompt tokens that one instance computes in a second, by engine deployment, where that was measured."""
        return {
            deployment: decision["rates"]["prompt_tokens_per_s"]
            for deployment, decision in self._decisions.items()
            if decision["is_measured"]
        }

    def targets(self) -> Mapping[str, int]:
        """The instances that it has asked Serve for last, by model."""
        return {self._models[deployment]: decision["target"] for deployment, decision in self._decisions.items()}

    async def follow(self) -> None:
        """Reads the news until cancelled."""
        while True:
            await self.hear()
            await asyncio.sleep(READ_EVERY_S)

    async def hear(self) -> None:
        """Reads the news once."""
        try:
            value = (await self._read(KEY)).get(KEY)
        except Unavailable:
            # Whoever the directory is away for hears of it from the requests; here only the age of the news counts.
            value = None
        if value is not None:
            decisions = json.loads(value)
            # Those of another version of the fleet may be of other models.
            self._decisions = {name: decision for name, decision in decisions.items() if name in self._models}
            self._heard_s, self._has_complained = self._clock(), False
        elif self.is_silent and not self._has_complained:
            self._has_complained = True
            logger.warning(
                "Serve's controller does not run the fleet's autoscaling policy: no model grows or shrinks. It comes "
                "with `penstock serve`, `deployments.deploy` and the config that `penstock build` writes, and with no "
                "other way to deploy."
            )

    def families(self) -> list[Metric]:
        """The latest decisions. Every replica tells the same ones, so they are not to be summed."""
        gauges = {
            "target": ("penstock_autoscaling_target_instances", "Instances that the policy has asked Serve for."),
            "wanted": (
                "penstock_autoscaling_wanted_instances",
                "Instances that this moment asks for, with spares.",
            ),
            "work": ("penstock_autoscaling_load_instances", "Instances that what comes in would keep busy."),
            "backlog_s": ("penstock_autoscaling_backlog_seconds", "Work that waits, in seconds of one instance."),
        }
        found: list[Metric] = []
        for field, (name, description) in gauges.items():
            family = GaugeMetricFamily(name, description, labels=["model"])
            for deployment, decision in self._decisions.items():
                family.add_metric([self._models[deployment]], float(decision[field]))
            found.append(family)
        rate = GaugeMetricFamily(
            "penstock_autoscaling_tokens_per_second", "What one instance is believed to do.", labels=["model", "kind"]
        )
        reason = GaugeMetricFamily(
            "penstock_autoscaling_reason_info", "Why the target is what it is.", labels=["model", "reason"]
        )
        for deployment, decision in self._decisions.items():
            model = self._models[deployment]
            rate.add_metric([model, "prompt"], decision["rates"]["prompt_tokens_per_s"])
            rate.add_metric([model, "output"], decision["rates"]["output_tokens_per_s"])
            reason.add_metric([model, decision["reason"]], 1)
        silent = GaugeMetricFamily(
            "penstock_autoscaling_silent", "Whether the policy was not heard of for a minute: nothing grows or shrinks."
        )
        silent.add_metric([], float(self.is_silent))
        return [*found, rate, reason, silent]
