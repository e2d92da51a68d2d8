"""`GET /v1/realtime`: a session over a WebSocket."""

import asyncio
import dataclasses
import uuid
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from deployments.database.database import DatabaseUnavailable
from deployments.database.kept_sessions import KeptSessions
from deployments.database.session_record import SessionRecord, TakenUp
from deployments.http.realtime.client_secrets import session_brought
from deployments.http.realtime.session import RealtimeSession
from deployments.http.server.exchange import Exchange
from deployments.http.server.json_guard import parse_object
from deployments.http.server.refusals import NotHttp
from deployments.request_meter import RequestMeter
from engines.context import Context
from engines.contract import Engine
from engines.conversation.events import TurnDelta, TurnFailed, TurnFinished, TurnStarted
from engines.conversation.frames import Open, TurnSettings
from engines.conversation.journal import ConversationLimits
from engines.errors import InvalidRequest, PenstockError, RateLimited, Unsupported
from engines.requests import Session

ENDPOINT = "/v1/realtime"
PROTOCOL = "realtime"
"""The subprotocol; a browser, which cannot set headers, names its key as another one (`server.keys`)."""
PING_S = 30.0
"""After so long a silence a ping keeps proxies from cutting the connection. Whoever does not answer it is not dropped:
many clients read nothing while their users think."""
_NOTED_BYTES = 64 * 1024
"""What waits for a client below this costs nothing to speak of."""


async def realtime(exchange: Exchange) -> web.StreamResponse:
    """Holds a session until its client leaves, nothing happens in it for too long, or the server ends.

    Raises:
        NotHttp: The request asks for no WebSocket.
        Forbidden: A web page sent it that may not.
        InvalidRequest: It names no model.
        ModelNotFound: It names one that is not served.
        RateLimited: Its tenant has as many sessions as it may.
        Unsupported: It takes up a session, and none are kept here.
        SessionNotFound: The session that it takes up is not kept.
        DatabaseUnavailable: Whether it is cannot be said now.
    """
    request, services = exchange.request, exchange.services
    services.cors.check_origin(request)
    of_secret, settings_of_session = session_brought(exchange)
    name = request.query.get("model") or of_secret
    if name and of_secret is not None and name != of_secret:
        raise InvalidRequest(f"model: the client secret is for {of_secret[:200]!r}.", param="model")
    if not name:
        raise InvalidRequest("model: name it in the URL: /v1/realtime?model=NAME.", param="model")
    # What is wrong is said before the handshake, where clients expect it.
    engine = exchange.engine(name)
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        raise NotHttp("This endpoint speaks WebSocket: ask for an upgrade to it.")
    settings, tenant = services.settings.realtime, exchange.tenant.name
    if services.sessions.count(tenant) >= settings.max_sessions_per_tenant:
        message = (
            f"There are {settings.max_sessions_per_tenant} sessions of the API key's tenant, and more are not held."
        )
        raise RateLimited(message, retry_after_s=1.0)
    kept = await _kept(exchange, name, settings_of_session)
    socket = web.WebSocketResponse(protocols=(PROTOCOL,), max_msg_size=settings.max_event_bytes, compress=False)
    exchange.set_headers(socket)
    with exchange.context() as context:
        await socket.prepare(request)
        held = _SessionSocket(exchange, socket, name, kept)
        try:
            with services.sessions.holding(tenant, held):
                await held.serve(engine, context)
        finally:
            held.close()
            context.kill()
    return socket


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """How a session begins, and where it is kept."""

    id: str
    settings: TurnSettings
    sessions: KeptSessions | None
    taken_up: TakenUp | None


async def _kept(exchange: Exchange, name: str, settings: TurnSettings) -> _Kept:
    """Takes up the session that the request names, or begins another one."""
    storage = exchange.services.storage
    id = exchange.request.query.get("session_id")
    if id is None:
        new = f"sess_{uuid.uuid4().hex}"
        return _Kept(new, settings, None if storage is None else storage.sessions, None)
    if storage is None:
        message = "session_id: this server keeps no sessions. It does with `database` in the fleet file."
        raise Unsupported(message, param="session_id")
    model = exchange.model_of(name).name
    taken_up = await storage.sessions.take_up(id, exchange.tenant.name, model)
    return _Kept(id, taken_up.settings, storage.sessions, taken_up)


class _SessionSocket:
    """The way between a socket and its session; in figures and logs each of its turns is a request.

    Args:
        exchange: The request that opened it.
        socket: The socket.
        model: The model's name, as the client wrote it.
        kept: Where it is kept.
    """

    def __init__(self, exchange: Exchange, socket: web.WebSocketResponse, model: str, kept: _Kept) -> None:
        self._exchange = exchange
        self._socket = socket
        self._asked_for = model
        self._model = exchange.model_of(model).name
        self._unread = exchange.services.unread
        self._waiting: deque[str] = deque()
        self._waiting_bytes = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._flushing: asyncio.Task[Any] | None = None
        self._meters: dict[str, RequestMeter] = {}
        self._is_draining = False
        self._is_closing = False
        self._kept = kept
        self._session: RealtimeSession | None = None
        self._record: SessionRecord | None = None

    async def serve(self, engine: Engine, context: Context) -> None:
        """Reads what the client sends, to the end."""
        settings = self._exchange.services.settings
        session = self._session = RealtimeSession(
            engine,
            self._kept.id,
            self._opened(),
            context,
            self._send,
            self._ended,
            ConversationLimits(items=settings.realtime.max_items, history_bytes=settings.realtime.max_history_bytes),
            rate_limits=self._rate_limits,
            turns=self,
        )
        self._keep(session)
        idle_s, clock = settings.realtime.idle_timeout_s, asyncio.get_running_loop().time
        heard_s = clock()
        while True:
            try:
                message = await self._socket.receive(timeout=min(PING_S, idle_s))
            except TimeoutError:
                if session.is_answering:
                    heard_s = clock()
                elif clock() - heard_s < idle_s:
                    await self._socket.ping()
                else:
                    self._close(WSCloseCode.GOING_AWAY, f"idle for {idle_s:g} s")
                continue
            heard_s = clock()
            if message.type is WSMsgType.TEXT:
                try:
                    session.take(parse_object(message.data.encode(), settings.max_json_depth))
                except InvalidRequest as error:
                    session.refuse(error)
                # Who sends a thousand events at once has one turn of the loop for each, like everybody else.
                await asyncio.sleep(0)
            elif message.type is WSMsgType.BINARY:
                session.refuse(InvalidRequest("An event is a text frame of JSON; this one was binary."))
            else:
                return

    def close(self) -> None:
        """Lets go of what still waits: the socket is closed."""
        self._is_closing = True
        if self._record is not None:
            self._record.lifetime_s = self._exchange.services.settings.realtime.keep_s
            self._record.touch()
        self._unread.forget(self)
        for task in self._tasks:
            task.cancel()
        for meter in self._meters.values():
            self._exchange.services.metrics.disconnected(meter)
            self._exchange.services.metrics.end(meter, 499, "cancelled")

    def drain(self) -> None:
        """Closes it between two turns."""
        self._is_draining = True
        if not self._meters:
            self._restart()

    def cut(self) -> None:
        """Ends what is being answered, and closes it."""
        if self._session is not None:
            self._session.stop()

    def give_up(self) -> None:
        """Its client reads too slowly: it is dropped."""
        self._waiting.clear()
        transport = self._exchange.request.transport
        if transport is not None:
            transport.abort()

    def _send(self, text: str) -> None:
        self._waiting.append(text)
        self._waiting_bytes += len(text)
        if len(self._waiting) == 1:
            self._flushing = self._start(self._flush())
        elif self._waiting_bytes > _NOTED_BYTES:
            self._unread.note(self, self._waiting_bytes)

    async def _flush(self) -> None:
        waiting = self._waiting
        try:
            while waiting:
                await self._socket.send_str(waiting[0])
                # It may have been given up meanwhile.
                if waiting:
                    self._waiting_bytes -= len(waiting.popleft())
        except ConnectionError:
            # The client is gone; whoever reads from it is told.
            waiting.clear()
        self._waiting_bytes = 0
        self._unread.forget(self)

    def _opened(self) -> Open:
        kept = self._kept
        # So that its turns go where they went before, whichever replica holds it.
        session = Session(id=kept.id, mode="soft")
        items = [] if kept.taken_up is None else list(kept.taken_up.items)
        return Open(model=self._asked_for, session=session, settings=kept.settings, items=items)

    def _keep(self, session: RealtimeSession) -> None:
        sessions, realtime = self._kept.sessions, self._exchange.services.settings.realtime
        if sessions is None:
            return
        tenant, kept = self._exchange.tenant.name, self._kept
        record = self._record = SessionRecord(kept.id, tenant, self._model, kept.taken_up, self._lost)
        # Idle for longer it is closed.
        record.lifetime_s = realtime.idle_timeout_s + realtime.keep_s
        session.keep(record, lambda: sessions.mark(record))

    def _lost(self) -> None:
        self._record = None
        self._close(WSCloseCode.POLICY_VIOLATION, "the session was taken up by another connection")

    def _restart(self) -> None:
        self._close(WSCloseCode.SERVICE_RESTART, "the server restarts")

    def _ended(self, error: PenstockError | None) -> None:
        if error is not None:
            # Its key was taken away; or its client has left already.
            self._close(WSCloseCode.POLICY_VIOLATION, "the session was ended")

    def _close(self, code: int, why: str) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._start(self._close_after_all(code, why))

    async def _close_after_all(self, code: int, why: str) -> None:
        """Closes it once everything that was said is sent."""
        while self._waiting and self._flushing is not None:
            await asyncio.wait((self._flushing,))
        if code == WSCloseCode.SERVICE_RESTART and self._record is not None and self._kept.sessions is not None:
            # Its client comes back at once, to another replica.
            with suppress(DatabaseUnavailable):
                await self._kept.sessions.committed(self._record)
                why = f"{why}; session_id={self._record.id}"
        await self._socket.close(code=code, message=why.encode())

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _rate_limits(self) -> list[dict[str, Any]]:
        return [
            {"name": left.name, "limit": left.limit, "remaining": left.remaining, "reset_seconds": left.reset_s or 0.0}
            for left in self._exchange.services.quotas.left(self._exchange.tenant)
        ]

    def asked(self, turn: str) -> None:
        """A turn was asked for."""
        meter = self._meters[turn] = self._exchange.services.metrics.begin(ENDPOINT)
        meter.model, meter.tenant = self._model, self._exchange.meter.tenant

    def said(self, event: TurnStarted | TurnDelta) -> None:
        """It said something."""
        if isinstance(event, TurnDelta):
            meter = self._meters[event.turn]
            meter.first_token()
            meter.tokens += len(getattr(event.delta, "token_ids", ()))
        else:
            self._exchange.instance = event.engine

    def ended(self, event: TurnFinished | TurnFailed) -> None:
        """It ended."""
        exchange, meter = self._exchange, self._meters.pop(event.turn)
        status, code = 200, None
        if isinstance(event, TurnFinished):
            meter.finish(event.usage, (event.reason,))
        else:
            status, code = event.error.status, event.error.code
        exchange.services.metrics.end(meter, status, code)
        turn = dataclasses.replace(exchange, meter=meter, id=event.turn)
        exchange.services.access_log.write(turn.log_line(status, code), is_refused=False)
        if self._is_draining and not self._meters:
            self._restart()
