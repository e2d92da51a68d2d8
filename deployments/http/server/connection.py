"""One client's connection: watches that the client reads, and tells the stream when it may write.

One that is too many is answered and closed before anything of it is read.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web

from deployments.http.server.connection_limits import ConnectionLimits
from deployments.http.server.refusals import InternalError, NotHttp
from deployments.http.server.request_id import HEADER, request_id
from deployments.http.server.sse_stream import SseStream
from engines.errors import PenstockError

HIGH_WATER_BYTES = 256 * 1024
"""Unsent bytes past which a stream stops writing."""
LOW_WATER_BYTES = 64 * 1024
"""Unsent bytes at which it goes on."""
MAX_HEADER_BYTES = 8190
MAX_HEADERS = 128
_ONE_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nServer: penstock\r\n"
    b"Connection: close\r\n\r\n"
)


class Connection(web.RequestHandler):
    """aiohttp's connection, with an eye on the client.

    Args:
        server: The server it belongs to.
        write_timeout_s: A client that reads nothing for so long, while bytes wait for it, is dropped.
        on_drop: Called when a client is dropped.
        limits: How many connections there may be.
        refuse: Makes the answer to what is no request, of an error and an id for it.
        options: aiohttp's own.

    Attributes:
        requests: How many have come on it so far.
        received: Bytes that have come on it so far.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        write_timeout_s: float,
        on_drop: Callable[[], None],
        limits: ConnectionLimits,
        refuse: Callable[[PenstockError, str], web.Response],
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self._write_timeout_s = write_timeout_s
        self._on_drop = on_drop
        self._limits = limits
        self._peer: str | None = None  # None: it is not counted.
        self._refuse = refuse
        self._stream: SseStream | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._blocked = False
        self._is_deaf = False
        self.requests = 0
        self.received = 0

    @property
    def blocked(self) -> bool:
        """Whether the client does not keep up with what was sent to it."""
        return self._blocked

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the client has not taken."""
        return self._unsent_bytes()

    def attach(self, stream: SseStream | None) -> None:
        """The stream to flush when the client keeps up again; None: there is none any more."""
        self._stream = stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's: the client is there."""
        address = transport.get_extra_info("peername")
        peer = str(address[0]) if address else ""
        if not self._limits.enter(peer):
            assert isinstance(transport, asyncio.Transport)
            transport.write(_ONE_TOO_MANY)
            transport.close()
            return
        self._peer = peer
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)

    def connection_lost(self, exc: BaseException | None) -> None:
        """asyncio's: the client is gone. aiohttp cancels the handler."""
        if self._peer is None:
            return
        self._limits.leave(self._peer)
        self._peer = None
        self._unwatch()
        self._stream = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio's: something came."""
        if self._peer is not None and not self._is_deaf:
            self.received += len(data)
            super().data_received(data)

    def drop_input(self) -> None:
        """Drops, unparsed, what else comes: after a refusal aiohttp reads on for a while, for the client to see it."""
        self._is_deaf = True

    def pause_writing(self) -> None:
        """asyncio's: more than the high-water mark is unsent."""
        super().pause_writing()
        self._blocked = True
        self._watch_from(self._unsent_bytes())

    def resume_writing(self) -> None:
        """asyncio's: less than the low-water mark is unsent."""
        self._blocked = False
        self._unwatch()
        super().resume_writing()
        if self._stream is not None:
            self._stream.flush()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp's: what came is not HTTP. Answers in the API's own shape, and says nothing of the inside."""
        id = request_id(None)
        if status == 400:
            error = self._refuse(NotHttp(f"Not HTTP, or a header is over the limit of {MAX_HEADER_BYTES} bytes."), id)
        else:
            self.logger.error("request %s failed outside of its handler", id, exc_info=exc)
            error = self._refuse(InternalError(), id)
        error.headers[HEADER] = id
        error.headers[hdrs.SERVER] = "penstock"
        error.force_close()
        return error

    def _watch_from(self, unsent_bytes: int) -> None:
        self._watch = self._loop.call_later(self._write_timeout_s, self._check_progress, unsent_bytes)

    def _check_progress(self, unsent_bytes: int) -> None:
        now_unsent = self._unsent_bytes()
        # Nothing is added while it is blocked, so fewer unsent bytes mean that the client reads, however slowly.
        if now_unsent < unsent_bytes:
            self._watch_from(now_unsent)
            return
        self._watch = None
        self._on_drop()
        if self.transport is not None:
            self.transport.abort()

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _unsent_bytes(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()


class ChunkedOutlet:
    """Writes a stream's bytes to its connection, framed as chunks of HTTP/1.1."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def writable(self) -> bool:
        """Whether the client keeps up."""
        return not self._connection.blocked

    @property
    def unsent(self) -> int:
        """Bytes that were sent and that the client has not taken."""
        return self._connection.unsent

    def abort(self) -> None:
        """Ends the connection, with all that was not sent."""
        transport = self._connection.transport
        if transport is not None:
            transport.abort()

    def send(self, data: bytes) -> None:
        """Sends one chunk."""
        transport = self._connection.transport
        # A connection that is lost has cancelled the handler: the stream is about to be killed.
        if transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))


class PlainOutlet(ChunkedOutlet):
    """Writes a stream's bytes as they are, for HTTP/1.0, where the end of the connection is the end of the body."""

    __slots__ = ()

    def send(self, data: bytes) -> None:
        """Sends bytes."""
        transport = self._connection.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)
