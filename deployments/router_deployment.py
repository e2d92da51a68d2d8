"""The router deployment: each replica routes, listens on the HTTP port, and answers handle calls.

Serve is on the way of a handle call only. HTTP requests come to the replica's own port.
"""

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from prometheus_client.metrics_core import Metric
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from actors.daemon_thread import in_daemon_thread
from actors.directory.budgets import Claim, Grant
from actors.directory.client import DirectoryClient
from actors.directory.kept_values import KeptValues
from actors.directory.known_instance import Instance
from actors.frozen_heap import freeze_heap
from actors.switch_interval import shorten_switch_interval
from deployments.application_config import policy_arguments
from deployments.cluster_fleet import cluster_fleet
from deployments.cluster_nodes import ClusterNodes
from deployments.database.storage import Storage
from deployments.event_batches import in_batches
from deployments.fleet import Fleet, ModelCard
from deployments.fleet_secret import FleetSecret, SecretFile, new_secret
from deployments.fleet_settings import FleetSettings
from deployments.followed_file import READ_S
from deployments.http.ingress import HttpIngress
from deployments.http.server.validation import parse_body
from deployments.loopback_ray import keep_replica_on_loopback
from deployments.metrics import Metrics
from deployments.names import engine_deployments
from deployments.replica_settings import RouterBounds
from deployments.router_addresses import RouterAddress, RouterInfo, reachable
from deployments.router_scaling import RouterScaler, ServeNumbers
from deployments.routing.demand_meter import DemandMeter
from deployments.routing_metrics import RoutingFigures
from deployments.scaling.demand import rate_stats
from deployments.scaling.policy import NODES
from deployments.scaling_metrics import PolicyNews, cold_starts, held_requests, target_instances
from deployments.tenants.followed_keys import PUSHED, Pushed
from deployments.tenants.quotas import Lender, Quotas
from engines.call_requests import (
    Answer,
    CallRequest,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    Tokenized,
    TokenizeRequest,
)
from engines.completion import Collector, Completion
from engines.context import Context
from engines.contract import Engine
from engines.errors import Unavailable
from engines.events import Event
from engines.pooling_requests import Pooled, PoolingRequest, ScoreRequest, Scores
from engines.requests import GenerateRequest

logger = logging.getLogger(__name__)

Request = TypeVar("Request", bound=BaseModel)

LEND_S = 3.0
"""How long a request waits for the directory to say whether its tenant may."""
MARGIN_S = 10.0
"""What closing listeners and channels may take besides."""


def shutdown_timeout_s(settings: FleetSettings) -> float:
    """Seconds after which Serve may kill a replica that was asked to end."""
    return settings.http.notice_s + settings.http.drain_s + MARGIN_S


class RouterDeployment:
    """One router replica.

    Requests of handle calls may be the objects of `engines.requests` or plain dicts of the same fields. Errors are
    those of `engines.errors`: Ray raises them at the caller as an error that is both its own RayTaskError and what was
    raised here, so `except QueueFull` works, and so do its fields.

    Whoever holds the handle needs no key. With `tenant`, the name of one in the file of keys, a call is held to that
    tenant's bounds and quotas; without, it is nobody's and bound by nothing.

    Args:
        settings: The fleet.
        engines: Handles of the engine deployments; they only make those part of the application.
    """

    # `__del__` is called even when `__init__` did not come to an end.
    _fleet: Fleet | None = None
    _http: HttpIngress | None = None
    _news: asyncio.Task[None] | None = None
    _policy_news: PolicyNews | None = None
    _following: asyncio.Task[None] | None = None
    _scaling: asyncio.Task[None] | None = None

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: FleetSettings, *engines: DeploymentHandle
    ) -> None:
        keep_replica_on_loopback()
        self._settings = settings
        self._nodes = nodes = ClusterNodes()
        self._following = asyncio.create_task(nodes.follow())
        directory = DirectoryClient(settings.name)
        board = _DirectoryBoard(directory)
        metrics = Metrics(serve.get_replica_context().replica_tag, board)
        self._meters = {
            name: (model.name, DemandMeter())
            for name, model in engine_deployments(settings.deployed).items()
            if model.bounds is not None
        }
        self._fleet = cluster_fleet(settings, directory, metrics.report, dict(self._meters.values()))
        self._tell_of_routing(metrics)
        self._tell_of_scaling(metrics, board)
        await self._fleet.start()
        storage = None if settings.database is None else Storage(settings.database, settings.http)
        quotas, pushed = Quotas(_lender(directory)), _pushed(directory)
        self._http = HttpIngress(self._fleet, settings.http, metrics, quotas, pushed, storage, _secret(settings))
        await self._http.start()
        metrics.add(RouterInfo(self._address(self._http.port)))
        if settings.is_scaled and not settings.has_policy:
            replica, numbers = serve.get_replica_context().replica_tag, ServeNumbers(settings.name)
            scaler = RouterScaler(replica, policy_arguments(settings), self.record_autoscaling_stats, board, numbers)
            self._scaling = asyncio.create_task(scaler.run())
        freeze_heap()
        shorten_switch_interval()

    async def generate(
        self, request: GenerateRequest | Mapping[str, Any], request_id: str | None = None, tenant: str | None = None
    ) -> AsyncIterator[Event]:
        """The events of an answer, one by one; `generate_batches` costs less per event.

        Cancelling the call kills the request.

        Raises:
            PenstockError: As `Engine.generate`.
        """
        async for events in self.generate_batches(request, request_id, tenant):
            for event in events:
                yield event

    async def generate_batches(
        self, request: GenerateRequest | Mapping[str, Any], request_id: str | None = None, tenant: str | None = None
    ) -> AsyncIterator[list[Event]]:
        """The events of an answer, in batches: an item of Ray's stream costs the same, whatever it carries.

        Cancelling the call kills the request.

        Raises:
            PenstockError: As `Engine.generate`.
        """
        asked = _parsed(GenerateRequest, request)
        async for events in in_batches(self._engine(asked, tenant), asked, Context(request_id)):
            yield events

    async def complete(
        self, request: GenerateRequest | Mapping[str, Any], request_id: str | None = None, tenant: str | None = None
    ) -> Completion:
        """A whole answer. Cancelling the call kills the request.

        Raises:
            PenstockError: As `Engine.generate`.
        """
        context, collector = Context(request_id), Collector()
        try:
            asked = _parsed(GenerateRequest, request)
            await self._engine(asked, tenant).submit(asked, context, collector)
            return await collector.completion
        finally:
            context.kill()

    async def call(
        self, request: CallRequest[Answer], request_id: str | None = None, tenant: str | None = None
    ) -> Answer:
        """What is answered at once, without a stream. Cancelling the call kills the request.

        Raises:
            PenstockError: As `Engine.call`.
        """
        context = Context(request_id)
        try:
            return await self._engine(request, tenant).call(request, context)
        finally:
            context.kill()

    async def embed(self, request: EmbedRequest | Mapping[str, Any], tenant: str | None = None) -> Embeddings:
        """One vector per input; as `call`."""
        return await self.call(_parsed(EmbedRequest, request), tenant=tenant)

    async def score(self, request: ScoreRequest | Mapping[str, Any], tenant: str | None = None) -> Scores:
        """How well documents fit a query; as `call`."""
        return await self.call(_parsed(ScoreRequest, request), tenant=tenant)

    async def pooling(self, request: PoolingRequest | Mapping[str, Any], tenant: str | None = None) -> Pooled:
        """What a pooling model makes of inputs; as `call`."""
        return await self.call(_parsed(PoolingRequest, request), tenant=tenant)

    async def tokenize(self, request: TokenizeRequest | Mapping[str, Any], tenant: str | None = None) -> Tokenized:
        """The token ids of a text or conversation; as `call`."""
        return await self.call(_parsed(TokenizeRequest, request), tenant=tenant)

    async def detokenize(self, request: DetokenizeRequest | Mapping[str, Any], tenant: str | None = None) -> str:
        """The text of token ids; as `call`."""
        return await self.call(_parsed(DetokenizeRequest, request), tenant=tenant)

    async def models(self) -> Sequence[ModelCard]:
        """What is served."""
        return self._serving.cards()

    async def instances(self) -> Sequence[Instance]:
        """Every instance that is not gone, with its latest load, as this replica sees it."""
        return self._serving.instances()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What is asked of the models whose instances follow their load, for `deployments.scaling.policy`.

        Serve calls it every second, where its replicas' number may change.
        """
        stats: dict[str, float] = {}
        for name, (_, meter) in self._meters.items():
            stats |= meter.demand().stats(name)
        if self._policy_news is not None:
            for name, rate in self._policy_news.measured().items():
                stats |= rate_stats(name, rate)
        if isinstance(self._settings.router.replicas, RouterBounds):
            stats[NODES] = self._nodes.with_room(self._settings.router.needs)
        return stats

    async def settings(self) -> FleetSettings:
        """What the fleet was deployed with."""
        return self._settings

    async def process(self) -> tuple[str, int, int]:
        """Ray's id of the node that this replica runs on, its process there, and how many requests it carries."""
        carries = self._http.in_flight if self._http is not None else 0
        return ray.get_runtime_context().get_node_id(), os.getpid(), carries

    async def http_port(self) -> int:
        """The port that this replica listens on."""
        assert self._http is not None
        return self._http.port

    async def check_health(self) -> None:
        """Returns while the replica can do its work; that there are no instances is not its illness."""
        self._serving.check()

    def _tell_of_routing(self, metrics: Metrics) -> None:
        metrics.add(RoutingFigures(self._serving.placements), is_cumulative=True)

    def _tell_of_scaling(self, metrics: Metrics, board: "_DirectoryBoard") -> None:
        metrics.fleet_wide = self._fleet_wide
        models = {name: model for name, (model, _) in self._meters.items()}
        if models:
            held = {model: self._serving.held[model] for model in models.values()}
            metrics.add(held_requests(held))
            metrics.add(cold_starts(held), is_cumulative=True)
            self._policy_news = PolicyNews(models, board.read)
            self._news = asyncio.create_task(self._policy_news.follow())

    def _fleet_wide(self) -> list[Metric]:
        """What every replica tells alike: of the cluster's nodes, and of how many instances there are to be."""
        targets = {model.name: model.replicas for model in self._settings.deployed if isinstance(model.replicas, int)}
        told: list[Metric] = []
        if self._policy_news is not None:
            targets |= self._policy_news.targets()
            told = self._policy_news.families()
        return [*self._nodes.families(), target_instances(targets), *told]

    def _address(self, port: int) -> RouterAddress:
        at = reachable(self._settings.http.host, port, ray.util.get_node_ip_address())
        return RouterAddress(at, ray.get_runtime_context().get_node_id(), serve.get_replica_context().replica_tag)

    async def __del__(self) -> None:
        """Accepts no more, lets requests end, closes the channels."""
        for task in (self._news, self._following, self._scaling):
            if task is not None:
                task.cancel()
        if self._http is not None:
            await self._http.stop(self._settings.http.drain_s, self._settings.http.notice_s)
        if self._fleet is not None:
            await self._fleet.stop(0)

    @property
    def _serving(self) -> Fleet:
        assert self._fleet is not None
        return self._fleet

    def _engine(self, request: CallRequest[Any] | GenerateRequest, tenant: str | None) -> Engine:
        assert self._http is not None
        return self._http.engine(request.model, tenant)


@contextmanager
def _reaching(otherwise: str) -> Iterator[None]:
    """Raises Unavailable with these words where the directory cannot be reached."""
    try:
        yield
    except (RayError, TimeoutError, ValueError) as error:
        raise Unavailable(otherwise, retry_after_s=1.0) from error


def _secret(settings: FleetSettings) -> FleetSecret:
    """The fleet's secret, which all of its router replicas have."""
    file = settings.http.secret.file
    if file is not None:
        return FleetSecret(SecretFile(Path(file)))

    async def read() -> Sequence[bytes]:
        values, offered = KeptValues(settings.name), new_secret()
        async with asyncio.timeout(READ_S):
            return [await in_daemon_thread(lambda: values.agree("secret", offered))]

    return FleetSecret(read)


class _DirectoryBoard:
    """The directory's board, where router replicas leave their metrics for one another."""

    def __init__(self, directory: DirectoryClient) -> None:
        self._directory = directory

    async def post(self, key: str, value: bytes, ttl_s: float | None) -> None:
        """Leaves a value, in place of an earlier one of that key, for `ttl_s` seconds; None: for good."""
        try:
            await self._directory.post(key, value, math.inf if ttl_s is None else ttl_s)
        except (RayError, TimeoutError, ValueError) as error:
            # Nothing is lost: the next post, in seconds, carries the same sums and more.
            logger.info("Metrics were not posted: %s", type(error).__name__)

    async def read(self, prefix: str) -> dict[str, bytes]:
        """The values whose key has this prefix, by key.

        Raises:
            Unavailable: The directory cannot be reached. A scrape that fails is better than sums that fall.
        """
        with _reaching("The other replicas' figures cannot be read for now."):
            return await self._directory.board(prefix)

    async def swap(self, expected: Mapping[str, bytes | None], values: Mapping[str, bytes | None]) -> bool:
        """Leaves values, all at once, if the directory's board holds what is expected; whether it did.

        Raises:
            Unavailable: The directory cannot be reached.
        """
        with _reaching("The figures of gone replicas cannot be added up for now."):
            return await self._directory.swap(expected, values)


def _lender(directory: DirectoryClient) -> Lender:
    async def lend(claims: dict[str, Claim]) -> dict[str, Grant | None]:
        with _reaching("The directory does not answer."):
            return await directory.claim(claims, LEND_S)

    return lend


def _pushed(directory: DirectoryClient) -> Pushed:
    async def ask(known: str) -> tuple[str, bytes | None]:
        with _reaching("The directory does not answer."):
            return await directory.kept(PUSHED, known)

    return ask


def _parsed(kind: type[Request], request: Request | Mapping[str, Any]) -> Request:
    return request if isinstance(request, kind) else parse_body(kind, request)  # type: ignore[arg-type]
