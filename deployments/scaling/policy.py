"""The autoscaling policy of a fleet's Serve application: it runs in Serve's controller.

Serve calls it for all deployments of the application at once, several times a second, with what their replicas have
reported. A policy that raises holds up every later application of the controller, so that this one never does: where
it cannot decide, all stays as it is.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from deployments.scaling.bulletin import Bulletin
from deployments.scaling.demand import Demand, DemandSum, demand_of, rate_of
from deployments.scaling.scaler import Decision, Goal, Scaler
from deployments.scaling.work_rates import Rates

logger = logging.getLogger("ray.serve")

STALE_S = 15.0
"""A router replica that has said nothing new for so long was not heard: reports come every second."""
NODES = "nodes"
"""The name under which router replicas report how many nodes could have one."""
_COMPLAIN_EVERY_S = 60.0


class _Reports:
    """The latest report of each router replica, and when it was new."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, float]] = {}

    def fresh(self, series: Mapping[str, Mapping[Any, Any]], running: Any, now_s: float) -> dict[str, dict[str, float]]:
        """What each replica said last, of those that were heard lately, by the replica's name."""
        stats: dict[str, dict[str, float]] = {}
        told_at: dict[str, float] = {}
        for name, by_replica in series.items():
            for replica, points in by_replica.items():
                if points:
                    key = str(getattr(replica, "unique_id", replica))
                    stats.setdefault(key, {})[name] = float(points[-1].value)
                    told_at[key] = max(told_at.get(key, 0.0), float(points[-1].timestamp))
        # When it was said is told by another machine's clock; only that it is another time is known here.
        for key, at in told_at.items():
            if self._told.get(key, (None, 0.0))[0] != at:
                self._told[key] = (at, now_s)
        self._told = {key: said for key, said in self._told.items() if key in told_at}
        names = {str(getattr(replica, "unique_id", replica)) for replica in running}
        return {key: values for key, values in stats.items() if key in names and now_s - self._told[key][1] < STALE_S}

    def version(self) -> tuple[tuple[str, float], ...]:
        """Another one once anything new was said."""
        return tuple(sorted((key, at) for key, (at, _) in self._told.items()))


class FleetPolicy:
    """Sets the replicas of the engine deployments whose instances follow their load, and those of the routers.

    Its arguments come through Serve's config, and so are plain values.

    Args:
        router: Name of the router deployment.
        engines: Of each engine deployment that it sets, the goal: `min`, `max`, `spare`, `wait_s`, `counts_prefill`,
            `idle_s`, `prompt_tokens_per_s` and `output_tokens_per_s`.
        routers: `min` and `max` of the router replicas; None: their number is fixed.
        leave_s: How long a router replica that ends goes on with what it has: of that nothing is heard any more.
        fleet: Name of the fleet, which is told what was decided; None: nobody is.
        generation: Tells deployments of the same config apart: Serve takes up one that differs in nothing as it is.
        clock: Monotonic time in seconds; for tests.
    """

    def __init__(
        self,
        router: str,
        engines: Mapping[str, Mapping[str, Any]],
        routers: Mapping[str, int] | None = None,
        leave_s: float = 0.0,
        fleet: str | None = None,
        generation: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router = router
        self._routers = routers
        self._clock = clock
        self._bulletin = None if fleet is None else Bulletin(fleet)
        self._reports = _Reports()
        self._scalers = {name: Scaler(goal_of(goal)) for name, goal in engines.items()}
        self._sums = {name: DemandSum() for name in engines}
        self._seen: tuple[Any, ...] | None = None
        self._leave_s = leave_s
        self._heard: set[str] = set()
        # Until then some may be leaving: an upgrade, which ends routers, begins with a policy of its own.
        self._left_until_s = clock() + leave_s
        self._complained_s = -_COMPLAIN_EVERY_S
        self.decisions: dict[str, Decision] = {}

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
        """The replicas that deployments should have; one that is left out keeps those that it has.

        Args:
            contexts: Serve's `AutoscalingContext` of each deployment, by its id.
        """
        try:
            return self._decide(contexts), {}
        except Exception:
            # Whoever reads the log must hear of it, and every application goes on.
            if self._clock() - self._complained_s >= _COMPLAIN_EVERY_S:
                self._complained_s = self._clock()
                logger.exception("The autoscaling policy failed; all replicas stay as they are.")
            return {}, {}

    def _decide(self, contexts: Mapping[Any, Any]) -> dict[Any, int]:
        by_name = {context.deployment_name: (id, context) for id, context in contexts.items()}
        if self._router not in by_name:
            return {}
        now_s = self._clock()
        router_id, router = by_name[self._router]
        fresh = self._reports.fresh(router.raw_metrics or {}, router.running_replicas, now_s)
        is_whole = bool(fresh) and len(fresh) >= len(router.running_replicas)
        seen = (self._reports.version(), is_whole)
        if not fresh or seen == self._seen:
            return {}
        self._seen = seen
        if not self._heard <= fresh.keys():
            self._left_until_s = now_s + self._leave_s
        self._heard = set(fresh)
        is_whole = is_whole and now_s >= self._left_until_s
        wanted: dict[Any, int] = {}
        for name, scaler in self._scalers.items():
            if name in by_name:
                id, context = by_name[name]
                wanted[id] = self._scale(name, scaler, context, fresh, now_s, is_whole=is_whole)
        if self._bulletin is not None and self.decisions:
            self._bulletin.tell(self.decisions)
        nodes = max((int(stats.get(NODES, 0)) for stats in fresh.values()), default=0)
        if self._routers is not None and nodes:
            wanted[router_id] = min(max(nodes, self._routers["min"]), self._routers["max"])
        return wanted

    def _scale(
        self,
        name: str,
        scaler: Scaler,
        context: Any,
        fresh: Mapping[str, Mapping[str, float]],
        now_s: float,
        *,
        is_whole: bool,
    ) -> int:
        reports: dict[str, Demand] = {}
        for router, stats in fresh.items():
            if (measured := rate_of(stats, name)) is not None and measured > 0:
                scaler.recall(now_s, measured)
            demand = demand_of(stats, name)
            if demand is None:
                # Of another version of the fleet, which may not know the model.
                is_whole = False
            else:
                reports[router] = demand
        demand = self._sums[name].add(reports) if reports else None
        target, ready = context.target_num_replicas, context.current_num_replicas
        decision = scaler.decide(now_s, demand, target=target, ready=ready, is_whole=is_whole)
        if decision.target != target:
            logger.info(
                "%s: %d to %d instances (%s): %.2f of them would be busy with what comes in, %.1f s of work wait",
                name,
                target,
                decision.target,
                decision.reason,
                decision.work,
                decision.backlog_s,
            )
        self.decisions[name] = decision
        return decision.target


def goal_of(values: Mapping[str, Any]) -> Goal:
    """A goal out of the plain values of a config."""
    prior = Rates(float(values["prompt_tokens_per_s"]), float(values["output_tokens_per_s"]))
    rest = {name: value for name, value in values.items() if not name.endswith("_tokens_per_s")}
    return Goal(**rest, prior=prior)


def keep(context: Any) -> tuple[int, dict[str, Any]]:
    """A deployment's own policy, which holds where the application has none: all stays as it is.

    Serve's own would count requests, of which it sees none, and end every instance.
    """
    return context.target_num_replicas, {}
