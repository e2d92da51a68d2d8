"""One request and what is needed to answer it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import hdrs, web

from deployments.database.storage import Storage
from deployments.fleet import Fleet, Model
from deployments.fleet_secret import FleetSecret
from deployments.fleet_settings import HttpSettings
from deployments.http.server.access_log import AccessLog, request_line
from deployments.http.server.bodies import LARGE_BYTES, Bodies
from deployments.http.server.body import read_json
from deployments.http.server.connection import Connection
from deployments.http.server.cors import Cors
from deployments.http.server.hints import INSTANCE_HEADER, MODEL_HEADER, DispatchHints, dispatch_hints
from deployments.http.server.readiness import Readiness
from deployments.http.server.request_id import HEADER, LiveIds
from deployments.http.server.sessions import Sessions
from deployments.http.server.sse_stream import Flusher
from deployments.http.server.unread import Unread
from deployments.http.server.worker import Worker
from deployments.metrics import Metrics
from deployments.request_meter import RequestMeter
from deployments.tenants.key_file import Holder
from deployments.tenants.keys import Keys
from deployments.tenants.quotas import Quotas
from deployments.tenants.tenant import ANYBODY, Tenant
from deployments.tenants.tenant_view import held_to, model_of, models_of
from engines.completion import Completion
from engines.context import Context
from engines.contract import Engine
from engines.errors import ModelNotFound, PenstockError
from engines.events import Started
from engines.turns import rest

_TRACEPARENT_CHARS = 64

AWorker = TypeVar("AWorker", bound=Worker)


@dataclass(slots=True)
class Services:
    """What every request shares.

    Attributes:
        cors: Which web pages may ask.
        keys: Who holds which key.
        quotas: What tenants may spend.
        access_log: Where each request leaves a line.
        unread: What waits for clients that do not read.
        storage: What outlives this process; None: nothing does.
        secret: What the server seals and signs with.
        sessions: Connections that are held open for long.
        workers: What the APIs do besides answering.
        draining: The ingress is about to stop: probes say so, and connections are not kept.
    """

    fleet: Fleet
    settings: HttpSettings
    metrics: Metrics
    flusher: Flusher
    cors: Cors
    bodies: Bodies
    keys: Keys
    quotas: Quotas
    access_log: AccessLog
    unread: Unread
    storage: Storage | None
    secret: FleetSecret
    sessions: Sessions = field(default_factory=Sessions)
    workers: list[Worker] = field(default_factory=list)
    live_ids: LiveIds = field(default_factory=LiveIds)
    readiness: Readiness = field(default_factory=Readiness)
    draining: bool = False

    def worker(self, kind: type[AWorker]) -> AWorker:
        """The worker of a kind, which is there."""
        return next(worker for worker in self.workers if isinstance(worker, kind))


@dataclass(slots=True)
class Exchange:
    """One request.

    Attributes:
        request: aiohttp's.
        id: The request's id, in every answer and log line.
        services: What every request shares.
        meter: What it counts.
        created_s: Unix time at which it came in.
        instance: The instance that answers, once known.
        model: The model that answers, once known, where the one that was asked for is made of others.
        ids: Those in the path, of endpoints that have any.
        failed_with: The error that ended the answer after its head was sent.
        holder: Who asks, once known.
        brought: What its key says besides, where it is one of those that the endpoint hands out itself.
        moves: How often its streams broke and went on elsewhere.
        id_header: In which header the answer names the id, besides the one that every answer has.
    """

    request: web.BaseRequest
    id: str
    services: Services
    meter: RequestMeter
    created_s: int = field(default_factory=lambda: int(time.time()))
    instance: str | None = None
    model: str | None = None
    ids: tuple[str, ...] = ()
    failed_with: PenstockError | None = None
    holder: Holder | None = None
    brought: object = None
    moves: int = 0
    id_header: str = HEADER

    @property
    def fleet(self) -> Fleet:
        """Who serves."""
        return self.services.fleet

    @property
    def traceparent(self) -> str:
        """The caller's span, as W3C Trace Context writes it; empty where there is none."""
        return self.request.headers.get("traceparent", "")[:_TRACEPARENT_CHARS]

    def answered_by(self, answer: Started | Completion) -> None:
        """Notes who answers."""
        self.instance = answer.engine
        if answer.model and answer.model != self.meter.model:
            self.model = answer.model

    async def body(self) -> dict[str, Any]:
        """The JSON object that the client sent.

        Raises:
            InvalidRequest: It is not one.
            RequestTooLarge: It is over the limit.
            BodiesOverBudget: Too many bodies are being read.
        """
        return await read_json(self.request, self.services.settings, self.services.bodies)

    async def turn(self) -> None:
        """Leaves the event loop to others for a while, where the body was so large that it is time for that."""
        length = self.request.content_length
        if length is None or length >= LARGE_BYTES:
            await rest()

    def hints(self) -> DispatchHints:
        """What the headers say about where and when to serve.

        Raises:
            InvalidRequest: One is not what it should be.
        """
        return dispatch_hints(self.request, self.services.settings.session_header)

    def name_model(self, name: str) -> None:
        """Counts the request for its model. A name that is not served would be a new time series per typo."""
        with suppress(ModelNotFound):
            self.meter.model = self.model_of(name).name

    @property
    def tenant(self) -> Tenant:
        """Who asks."""
        return ANYBODY if self.holder is None else self.holder.tenant

    @property
    def models(self) -> Sequence[Model]:
        """The models that whoever asks may use."""
        return models_of(self.services.fleet, self.tenant)

    def model_of(self, name: str) -> Model:
        """The model of a name or alias.

        Raises:
            ModelNotFound: It is not served to whoever asks.
        """
        return model_of(self.services.fleet, self.tenant, name)

    def engine(self, model: str) -> Engine:
        """What answers for a model, within the bounds of whoever asks.

        Raises:
            ModelNotFound: It is not served.
        """
        return held_to(self.tenant, self.services.quotas, self.model_of(model).engine)

    @contextmanager
    def context(self) -> Iterator[Context]:
        """The request's context; killed when the answer does not come to its end, as when the client leaves.

        It is also killed when the key is taken away with which the request came.
        """
        ids = self.services.live_ids
        context = Context(ids.take(self.id), traceparent=self.traceparent)
        try:
            with self.services.keys.running(self.holder, context):
                yield context
        except BaseException:
            context.kill()
            raise
        finally:
            self.moves += context.moves
            ids.release(context.id)

    def set_headers(self, response: web.StreamResponse) -> None:
        """Sets the headers that every answer has; before its head is sent."""
        response.headers[HEADER] = response.headers[self.id_header] = self.id
        response.headers[hdrs.SERVER] = "penstock"
        if self.instance is not None:
            response.headers[INSTANCE_HEADER] = self.instance
        if self.model is not None:
            response.headers[MODEL_HEADER] = self.model
        if self.tenant.has_limits:
            response.headers.update(self.services.quotas.headers(self.tenant))
        self.services.cors.set_headers(self.request, response)
        connection = self.request.protocol
        is_worn = isinstance(connection, Connection) and (
            connection.requests >= self.services.settings.max_requests_per_connection
        )
        if self.services.draining or is_worn:
            response.force_close()

    def log_line(self, status: int, code: str | None) -> dict[str, Any]:
        """What the access log says of it: who asked what, and what became of it.

        Args:
            status: HTTP status; of an answer that failed after its head, that of the error.
            code: The code of the error, if there was one.
        """
        request = self.request
        return request_line(
            self.meter,
            id=self.id,
            peer=request.remote,
            method=request.method,
            instance=self.instance,
            moves=self.moves,
            status=status,
            code=code,
        )


def json_response(text: str) -> web.Response:
    """An answer of JSON text."""
    return web.Response(body=text.encode(), content_type="application/json")
