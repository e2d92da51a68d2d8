"""What a router replica counts, and the fleet's sum of it as Prometheus text.

Several replicas may share one port, so a scrape reaches any one of them: whichever answers gives the figures of all. A
replica posts its own before it reads the others', so that no later scrape, whoever answers it, shows less than this one
did.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from actors.directory.known_instance import Instance
from actors.loop_lag import LoopLag
from deployments.field_metrics import field_metrics
from deployments.instance_metrics import instance_metrics
from deployments.metric_exchange import Board, MetricExchange
from deployments.metric_snapshots import added, snapshot
from deployments.request_meter import RequestMeter
from engines.errors import Unavailable
from engines.operators.breaker import BreakerTurned
from engines.operators.migration import Move
from engines.operators.pool import PutAside
from engines.operators.recovery import Recovered

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LAG = "penstock_event_loop_lag_seconds"
_LAG_HELP = "The longest that the event loop of a process stood still in the last 15 s."

_LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
_FIRST_TOKEN_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MOVE_PAUSE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The figures of one router replica.

    Args:
        replica: Name of the replica, unique in the fleet and in time.
        board: Where replicas exchange their figures; None: there is one replica only.
        post_every_s: Figures of a replica that dies are lost since its last post.
    """

    def __init__(self, replica: str | None = None, board: Board | None = None, post_every_s: float = 2.0) -> None:
        self.replica = replica if replica is not None else uuid.uuid4().hex
        self._exchange = None if board is None else MetricExchange(self.replica, board, post_every_s)
        self._live: set[RequestMeter] = set()
        self._cumulative = CollectorRegistry(auto_describe=False)
        self._gauges = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "penstock_requests", "Requests answered.", ["endpoint", "model", "status"], registry=self._cumulative
        )
        self._errors = Counter(
            "penstock_request_errors",
            "Requests that ended with an error, by its code.",
            ["endpoint", "model", "code"],
            registry=self._cumulative,
        )
        self._disconnected = Counter(
            "penstock_client_disconnects",
            "Clients that left before their answer was complete.",
            ["endpoint", "model"],
            registry=self._cumulative,
        )
        self._dropped = Counter(
            "penstock_slow_clients_dropped",
            "Connections closed because the client read nothing for too long.",
            registry=self._cumulative,
        )
        self._refused_connections = Counter(
            "penstock_connections_refused",
            "Connections closed because there were too many, in all or of one peer.",
            registry=self._cumulative,
        )
        self._unread = Counter(
            "penstock_unread_streams_ended",
            "Streams ended because too much of them waited for a client that did not read.",
            registry=self._cumulative,
        )
        self._moves = Counter(
            "penstock_migrations",
            "Streams that broke, by what became of them, and why they broke.",
            ["model", "outcome", "cause"],
            registry=self._cumulative,
        )
        self._move_pause = Histogram(
            "penstock_migration_pause_seconds",
            "From a stream's break to its continuation elsewhere.",
            ["model"],
            buckets=_MOVE_PAUSE_BUCKETS_S,
            registry=self._cumulative,
        )
        self._recoveries = Counter(
            "penstock_recoveries",
            "Streams that broke behind the operator recovery, by what became of them.",
            ["model", "outcome"],
            registry=self._cumulative,
        )
        self._put_aside = Counter(
            "penstock_pool_members_put_aside",
            "How often a model of a pool refused our key, or did not know its model.",
            ["model", "member"],
            registry=self._cumulative,
        )
        self._background = Counter(
            "penstock_background_responses",
            "Responses in the background, by what became of them while a router replica had them.",
            ["outcome"],
            registry=self._cumulative,
        )
        self._tenant_requests = Counter(
            "penstock_tenant_requests",
            "Requests answered, by whose key they came with.",
            ["tenant", "status"],
            registry=self._cumulative,
        )
        self._tenant_tokens = Counter(
            "penstock_tenant_tokens",
            "Tokens of prompts, and generated ones, by whose key the request came with.",
            ["tenant", "kind"],
            registry=self._cumulative,
        )
        self._prompt_tokens = Counter(
            "penstock_prompt_tokens", "Tokens of prompts.", ["model"], registry=self._cumulative
        )
        self._cached_tokens = Counter(
            "penstock_cached_prompt_tokens",
            "Tokens of prompts that came from a prefix cache.",
            ["model"],
            registry=self._cumulative,
        )
        self._generation_tokens = Counter(
            "penstock_generation_tokens", "Tokens generated.", ["model"], registry=self._cumulative
        )
        self._first_token = Histogram(
            "penstock_time_to_first_token_seconds",
            "From the request to its first output.",
            ["model"],
            buckets=_FIRST_TOKEN_BUCKETS_S,
            registry=self._cumulative,
        )
        self._per_token = Histogram(
            "penstock_time_per_output_token_seconds",
            "Mean time between the tokens of a choice, one value for each request.",
            ["model"],
            buckets=_PER_TOKEN_BUCKETS_S,
            registry=self._cumulative,
        )
        self._latency = Histogram(
            "penstock_request_duration_seconds",
            "From the request to its complete answer.",
            ["endpoint", "model"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self._cumulative,
        )
        self._in_flight = Gauge(
            "penstock_requests_in_flight", "Requests to models that are under way.", registry=self._gauges
        )
        self._breakers_open = Gauge(
            "penstock_breakers_open",
            "Router replicas whose breaker of the model is open or half open.",
            ["model"],
            registry=self._gauges,
        )
        self._watched: dict[str, tuple[Gauge, Callable[[], float]]] = {}
        self._lag_gauge = Gauge(_LAG, _LAG_HELP, ["process"], registry=self._gauges)
        self.lag: LoopLag | None = None
        # Figures that every replica tells alike, and that are not summed.
        self.fleet_wide: Callable[[], Sequence[Metric]] = tuple
        Gauge("penstock_router_replicas", "Router replicas.", registry=self._gauges).set(1)

    @property
    def in_flight(self) -> int:
        """Requests of this replica that are under way, probes among them."""
        return len(self._live)

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Tells of a figure of this replica; the fleet's is the sum. A condition is 1 where it holds, else 0.

        Args:
            name: The metric's; a second time under the same name takes the first one's place.
            description: What the metric says.
            value: What it is now.
        """
        known = self._watched.get(name)
        gauge = Gauge(name, description, registry=self._gauges) if known is None else known[0]
        self._watched[name] = (gauge, value)

    def add(self, collector: Collector, *, is_cumulative: bool = False) -> None:
        """Tells of more figures of this replica, which are summed over the fleet.

        Args:
            collector: Collects them.
            is_cumulative: Whether they only grow, and are to outlive the replica.
        """
        (self._cumulative if is_cumulative else self._gauges).register(collector)

    def begin(self, endpoint: str) -> RequestMeter:
        """A request came in."""
        meter = RequestMeter(endpoint)
        self._live.add(meter)
        return meter

    def end(self, meter: RequestMeter, status: int, code: str | None = None) -> None:
        """It was answered.

        Args:
            meter: What `begin` returned.
            status: HTTP status; of an answer that failed after its head, that of the error.
            code: Code of the error, when there was one.
        """
        self._live.discard(meter)
        endpoint, model = meter.endpoint, meter.model
        now_s = time.monotonic()
        self._requests.labels(endpoint, model, str(status)).inc()
        if code is not None:
            self._errors.labels(endpoint, model, code).inc()
        elif model:
            self._latency.labels(endpoint, model).observe(now_s - meter.started_s)
        if meter.tenant:
            self._tenant_requests.labels(meter.tenant, str(status)).inc()
        if meter.first_token_s:
            self._first_token.labels(model).observe(meter.first_token_s - meter.started_s)
        tokens = meter.tokens
        if meter.usage is not None:
            usage = meter.usage
            tokens = max(tokens, usage.completion_tokens)
            self._prompt_tokens.labels(model).inc(usage.prompt_tokens)
            self._cached_tokens.labels(model).inc(usage.cached_tokens)
            # Choices are generated side by side: each gets its share of the tokens in the same time.
            gaps = tokens / meter.choices - 1
            if gaps > 0 and meter.first_token_s:
                self._per_token.labels(model).observe((meter.finished_s - meter.first_token_s) / gaps)
        if tokens:
            self._generation_tokens.labels(model).inc(tokens)
        if meter.tenant and meter.usage is not None:
            self._tenant_tokens.labels(meter.tenant, "prompt").inc(meter.usage.prompt_tokens)
        if meter.tenant and tokens:
            self._tenant_tokens.labels(meter.tenant, "generation").inc(tokens)

    def disconnected(self, meter: RequestMeter) -> None:
        """The client left; counted besides `end`."""
        self._disconnected.labels(meter.endpoint, meter.model).inc()

    def dropped(self) -> None:
        """A client that read nothing was dropped."""
        self._dropped.inc()

    def refused_connection(self) -> None:
        """A connection was one too many."""
        self._refused_connections.inc()

    def unread(self) -> None:
        """A stream was ended because too much of it waited for its client."""
        self._unread.inc()

    def background(self, outcome: str) -> None:
        """What became of a response in the background while this replica had it."""
        self._background.labels(outcome).inc()

    def report(self, model: str, said: Any) -> None:
        """An operator of a model says that something happened."""
        match said:
            case Move():
                self._moves.labels(model, said.outcome, said.cause).inc()
                if said.outcome == "continued":
                    self._move_pause.labels(model).observe(said.pause_s)
            case Recovered():
                self._recoveries.labels(model, said.outcome).inc()
            case BreakerTurned():
                self._breakers_open.labels(model).set(said.state != "closed")
                logger.warning("The breaker of %s is %s.", model, said.state)
            case PutAside():
                self._put_aside.labels(model, said.engine).inc()
                logger.warning("%s is put aside in %s: %s", said.engine, model, said.reason)

    async def post_forever(self) -> None:
        """Posts this replica's figures until cancelled; returns at once without a board."""
        if self._exchange is not None:
            await self._exchange.run(self.snapshots)

    async def post(self) -> None:
        """Posts this replica's figures, if there is a board that can be reached."""
        if self._exchange is not None:
            with suppress(Unavailable):
                await self._exchange.post(*self.snapshots())

    async def text(self, instances: Sequence[Instance]) -> str:
        """The fleet's figures as Prometheus text.

        Args:
            instances: The fleet's instances; every replica sees the same ones, so they are not summed.

        Raises:
            Unavailable: The other replicas' figures cannot be had. A scrape that fails is better than one that shows
                less than the last: Prometheus would take that for a restart.
        """
        others: list[bytes] = []
        if self._exchange is not None:
            await self._exchange.post(*self.snapshots())
            others = await self._exchange.others()
        ours = [*added([*self.snapshots(), *others, _instance_lags(instances)]), *instance_metrics(instances)]
        return _exposed([*ours, *self.fleet_wide(), *field_metrics(ours)])

    def snapshots(self) -> tuple[bytes, bytes]:
        """This replica's figures now: those that only grow, and its gauges."""
        # Probes and the scrape itself have no model.
        self._in_flight.set(sum(1 for meter in self._live if meter.model))
        for gauge, value in self._watched.values():
            gauge.set(value())
        if self.lag is not None:
            self._lag_gauge.labels(self.replica).set(self.lag.longest_s())
        families = list(self._cumulative.collect())
        live: dict[str, int] = {}
        for meter in self._live:
            if meter.tokens:
                live[meter.model] = live.get(meter.model, 0) + meter.tokens
        counter = next(family for family in families if family.name == "penstock_generation_tokens")
        for model, tokens in live.items():
            counter.add_sample("penstock_generation_tokens_total", {"model": model}, tokens)
        return snapshot(families), snapshot(self._gauges.collect())


def _instance_lags(instances: Sequence[Instance]) -> bytes:
    lag = GaugeMetricFamily(_LAG, _LAG_HELP, labels=["process"])
    for instance in instances:
        lag.add_metric([instance.id], instance.load.lag_s)
    return snapshot([lag])


class _Fixed(Collector):
    """Collects what it is given."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _exposed(metrics: Sequence[Metric]) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(metrics))
    return generate_latest(registry).decode()
