"""The HTTP ingress: listens, drains, stops."""

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiohttp import web

from actors.loop_lag import LoopLag
from deployments.database.storage import Storage
from deployments.fleet import Fleet
from deployments.fleet_secret import FleetSecret
from deployments.fleet_settings import HttpSettings, OperatorSettings
from deployments.http.apis import DEFAULT_ERROR_TEXT, make_workers
from deployments.http.dispatcher import Dispatcher
from deployments.http.key_source import is_loopback, key_source
from deployments.http.server.access_log import AccessLog, NoAccessLog
from deployments.http.server.bodies import Bodies
from deployments.http.server.connection import MAX_HEADER_BYTES, MAX_HEADERS, Connection
from deployments.http.server.connection_limits import ConnectionLimits
from deployments.http.server.cors import Cors
from deployments.http.server.error_response import error_response
from deployments.http.server.exchange import Services
from deployments.http.server.hosts import Hosts
from deployments.http.server.refusals import CannotListen
from deployments.http.server.sse_stream import Flusher
from deployments.http.server.tls import HANDSHAKE_S, ServerTls
from deployments.http.server.unread import Unread
from deployments.metrics import Metrics
from deployments.tenants.followed_keys import Pushed, nothing_pushed
from deployments.tenants.keys import Keys
from deployments.tenants.quotas import Quotas
from deployments.tenants.tenant_view import held_to, model_of
from engines.contract import Engine

BACKLOG = 2048
"""Connections that wait to be accepted."""
KEEPALIVE_S = 75.0
"""How long an idle connection is kept; longer than the idle time of common load balancers."""
LINGER_S = 1.0
"""How long the rest of a refused body is read and dropped, so that the client gets to see the answer."""
CUT_S = 2.0
"""What sessions get to end once they are told to at once."""
POLL_S = 0.05
QUIET_S = 5.0
"""With no request for so long, no client is about to ask again on the connection of its last answer."""


class HttpIngress:
    """The HTTP APIs over a fleet.

    Args:
        fleet: Who serves.
        settings: Where to listen, and the limits.
        metrics: Where requests are counted.
        quotas: What tenants may spend; None: nobody else serves them.
        pushed: Asks for the keys that were sent to the fleet.
        storage: What outlives this process; None: nothing does.
        secret: What it seals and signs with; None: one of its own.
    """

    def __init__(
        self,
        fleet: Fleet,
        settings: HttpSettings,
        metrics: Metrics,
        quotas: Quotas | None = None,
        pushed: Pushed = nothing_pushed,
        storage: Storage | None = None,
        secret: FleetSecret | None = None,
    ) -> None:
        self._fleet = fleet
        self._settings = settings
        self._metrics = metrics
        self._quotas = quotas or Quotas.alone()
        self._pushed = pushed
        self._storage = storage
        self._secret = secret or FleetSecret()
        self._services: Services | None = None
        self._tls: ServerTls | None = None
        # That of the API, and then that of the operators, if there is one.
        self._servers: list[_Server] = []
        self._listeners: list[asyncio.Server] = []
        self._poster: asyncio.Task[None] | None = None
        self._lag = LoopLag()
        self._port = 0

    @property
    def port(self) -> int:
        """The port it listens on, once started; the OS's choice where the settings say 0."""
        return self._port

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._metrics.in_flight

    def engine(self, model: str, tenant: str | None) -> Engine:
        """What answers for a model, for callers who need no key.

        Args:
            model: Its name or alias.
            tenant: Whose bounds and quotas hold; None: nobody's.

        Raises:
            ModelNotFound: It is not served, or not to that tenant.
            Forbidden: There is no such tenant.
            NoKeys: There are no tenants.
        """
        assert self._services is not None
        if tenant is None:
            return self._fleet.find(model).engine
        held = self._services.keys.tenant(tenant)
        return held_to(held, self._quotas, model_of(self._fleet, held, model).engine)

    async def start(self) -> None:
        """Listens. Other replicas may listen on the same port.

        Raises:
            CannotListen: The port is taken by another program, or may not be had; or anybody could ask there.
        """
        settings = self._settings
        keys = key_source(settings, self._pushed)
        tls = self._tls = None if settings.tls is None else ServerTls(settings.tls)
        log = _access_log(settings, keyed=not keys.is_open)
        await keys.start()
        unread = Unread(settings.unread_stream_bytes, settings.unread_bytes, self._metrics.unread)
        self._services = Services(
            self._fleet,
            settings,
            self._metrics,
            Flusher(unread),
            cors=Cors(settings.cors),
            bodies=Bodies(settings.max_bodies_bytes),
            keys=keys,
            quotas=self._quotas,
            access_log=log,
            unread=unread,
            storage=self._storage,
            secret=self._secret,
        )
        self._services.workers = make_workers(self._services)
        await self._secret.start()
        if self._storage is not None:
            await self._storage.start()
        try:
            await self._listen(settings.host, settings.port, keyed=not keys.is_open, tls=tls)
            if settings.operators is not None:
                await self._listen_for_operators(settings.operators, keys, tls)
        except CannotListen:
            for listener in self._listeners:
                listener.close()
            self._listeners, self._servers = [], []
            await keys.stop()
            await self._secret.stop()
            if self._storage is not None:
                await self._storage.stop()
            log.close()
            raise
        self._port = self._listeners[0].sockets[0].getsockname()[1]
        self._poster = asyncio.create_task(self._metrics.post_forever())
        self._lag.start()
        self._metrics.lag = self._lag
        self._watch(keys, tls)
        await self._quotas.start()
        for worker in self._services.workers:
            worker.start()
        if tls is not None:
            await tls.start()

    async def _listen_for_operators(self, settings: OperatorSettings, keys: Keys, tls: ServerTls | None) -> None:
        on_loopback = is_loopback(settings.host)
        if not on_loopback and keys.is_open and not self._settings.open:
            raise CannotListen(
                f"http.operators: whoever reaches {settings.host} could read the fleet's figures. Set keys, or a host "
                "of loopback."
            )
        # Who is on this machine needs none; elsewhere it takes the scope `admin`.
        await self._listen(settings.host, settings.port, keyed=not on_loopback, tls=tls, for_operators=True)

    async def _listen(
        self, host: str, port: int, *, keyed: bool, tls: ServerTls | None, for_operators: bool = False
    ) -> None:
        settings, metrics = self._settings, self._metrics
        assert self._services is not None
        hosts = Hosts(host, settings.hosts, keyed=keyed)
        server = _Server(
            Dispatcher(self._services, hosts, for_operators=for_operators, asks_for_key=keyed or not for_operators),
            write_timeout_s=settings.write_timeout_s,
            metrics=metrics,
            limits=ConnectionLimits(
                settings.max_connections, settings.max_connections_per_peer, metrics.refused_connection
            ),
        )
        secured: dict[str, Any] = {} if tls is None else {"ssl": tls.context, "ssl_handshake_timeout": HANDSHAKE_S}
        try:
            listener = await asyncio.get_running_loop().create_server(
                server, host, port, reuse_port=True, backlog=BACKLOG, **secured
            )
        except OSError as error:
            field = "http.operators." if for_operators else "http."
            raise _cannot_listen(host, port, field, error) from error
        hosts.listens_on([listening.getsockname()[0] for listening in listener.sockets])
        self._listeners.append(listener)
        self._servers.append(server)

    def _watch(self, keys: Keys, tls: ServerTls | None) -> None:
        self._metrics.watch(
            "penstock_keys_unreadable",
            "Router replicas that cannot read their keys anew; those that they have read before hold.",
            lambda: bool(keys.problem),
        )
        self._metrics.watch(
            "penstock_quotas_unreachable",
            "Router replicas that the directory does not answer: tenants with quotas have what is there already.",
            lambda: not self._quotas.is_reached,
        )
        self._metrics.watch(
            "penstock_secret_unreadable",
            "Router replicas that cannot read the fleet's secret anew; the one that they have read before holds.",
            lambda: bool(self._secret.problem),
        )
        storage = self._storage
        if storage is not None:
            self._metrics.watch(
                "penstock_database_unreachable",
                "Router replicas that cannot use their database: what needs it is refused.",
                lambda: bool(storage.database.problem),
            )
        if tls is not None:
            self._metrics.watch(
                "penstock_certificate_unreadable",
                "Router replicas that cannot read their certificate anew; the one that they have read before holds.",
                lambda: bool(tls.problem),
            )

    def drain(self) -> None:
        """Says that it is about to stop: `/ready` turns 503, and connections are closed after their answer."""
        if self._services is not None:
            self._services.draining = True
            self._services.sessions.drain()
            for worker in self._services.workers:
                worker.drain()

    async def stop(self, timeout_s: float = 30.0, notice_s: float = 0.0) -> None:
        """Drains, takes no new connection, lets the requests under way end, and ends what is left. Idempotent.

        Args:
            timeout_s: What the requests under way get.
            notice_s: How long connections are still taken, for load balancers that have to see `/ready` first.
        """
        self.drain()
        listeners, self._listeners = self._listeners, []
        servers, self._servers = self._servers, []
        poster, self._poster = self._poster, None
        if poster is None:
            return
        await asyncio.sleep(notice_s)
        for _ in range(2):
            # The kernel has answered some already, and would reset them: one turn of the loop accepts them.
            await asyncio.sleep(0)
        for listener in listeners:
            listener.close()
        await self._until_quiet(servers, timeout_s)
        assert self._services is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(CUT_S):
                await self._services.sessions.cut()
        # Connections that are still busy are cut here; cutting one kills its request.
        for server in servers:
            await server.shutdown(timeout=POLL_S)
        for worker in self._services.workers:
            await worker.stop()
        poster.cancel()
        self._lag.stop()
        await self._services.keys.stop()
        await self._secret.stop()
        await self._quotas.stop()
        if self._tls is not None:
            await self._tls.stop()
        if self._storage is not None:
            await self._storage.stop()
        self._services.access_log.close()
        await asyncio.wait([poster])
        # What it has counted since it last told the others must not go with it.
        await self._metrics.post()

    async def _until_quiet(self, servers: "Sequence[_Server]", timeout_s: float) -> None:
        """Waits until no request is under way, and none comes on the connections that are left.

        Idle connections are left open for a request that is on its way; each closes after its next answer. An answer
        that had begun before the drain could not say that its connection closes, and its client may ask again at once.
        """
        now_s = asyncio.get_running_loop().time
        began_s = busy_s = now_s()
        while (
            self._metrics.in_flight or any(server.connections for server in servers)
        ) and now_s() - began_s < timeout_s:
            if self._metrics.in_flight:
                busy_s = now_s()
            elif now_s() - busy_s >= QUIET_S:
                return
            await asyncio.sleep(POLL_S)


class _Server(web.Server):
    """Makes the connections.

    Args:
        handler: Answers requests.
        write_timeout_s: A client that reads nothing for so long is dropped.
        metrics: Counts those.
        limits: How many connections there may be.
    """

    def __init__(
        self, handler: Dispatcher, *, write_timeout_s: float, metrics: Metrics, limits: ConnectionLimits
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "write_timeout_s": write_timeout_s,
            "on_drop": metrics.dropped,
            "limits": limits,
            "refuse": lambda error, id: error_response(error, DEFAULT_ERROR_TEXT(error, id)),
            "access_log": None,
            # A compressed body may unpack to any size; such bodies are refused.
            "auto_decompress": False,
            "keepalive_timeout": KEEPALIVE_S,
            "lingering_time": LINGER_S,
            "max_line_size": MAX_HEADER_BYTES,
            "max_field_size": MAX_HEADER_BYTES,
            "max_headers": MAX_HEADERS,
        }

    def __call__(self) -> Connection:
        return Connection(self, **self._options)


def _access_log(settings: HttpSettings, *, keyed: bool) -> AccessLog:
    target = settings.access_log or ("stdout" if keyed else "off")
    return NoAccessLog() if target == "off" else AccessLog(target)


def _cannot_listen(host: str, port: int, section: str, error: OSError) -> CannotListen:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return CannotListen(f"{where} is taken by another program. Stop that, or set another {section}port.")
    if error.errno == errno.EACCES:
        return CannotListen(f"Listening on {where} is not allowed. Set an {section}port over 1023.")
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return CannotListen(f"This machine has no address {host!r}. Set another {section}host.")
    return CannotListen(f"Cannot listen on {where}: {error.strerror}.")
