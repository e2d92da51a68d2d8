"""Connections to one server: kept, verified, and made anew where the server had closed a kept one."""

import errno
import ssl
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import hdrs
from yarl import URL

from engines.errors import EngineFailed, NotReady
from engines.remote.options import RemoteOptions

_STALE_S = 5.0
"""A kept connection that is lost so soon after a request was sent was lost before: the server has not read it."""
# By OpenSSL's number of what is wrong with a certificate.
_UNKNOWN = "of an authority that is not trusted here; the option ca_file names others"
_OTHER = "for another name"
_DISTRUST = {10: "over", 18: _UNKNOWN, 19: _UNKNOWN, 20: _UNKNOWN, 21: _UNKNOWN, 62: _OTHER, 64: _OTHER}


class _Connection:
    """The connection of one request.

    Attributes:
        was_used: Whether another request had it before.
    """

    __slots__ = ("was_used",)

    def __init__(self) -> None:
        self.was_used = False


async def _on_reuse(session: object, context: Any, parameters: object) -> None:
    context.trace_request_ctx.was_used = True


class Connections:
    """A pool of connections to one server.

    TLS certificates are verified. Proxies and `.netrc` of the machine are not used.

    Args:
        name: The engine's name, for errors.
        options: The engine's options.
    """

    def __init__(self, name: str, options: RemoteOptions) -> None:
        self._name = name
        self._ca_file = options.ca_file
        self._timeout = aiohttp.ClientTimeout(total=None, connect=options.connect_s, sock_read=options.idle_s)
        self._kept: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._kept is not None

    def open(self) -> None:
        """Makes the pool; nothing is sent.

        Raises:
            EngineFailed: `ca_file` cannot be read, or has no certificates in it.
        """
        if self._kept is None:
            trusted = self._trusted()
            self._kept = self._session(aiohttp.TCPConnector(limit=0, ssl=trusted))
            self._fresh = self._session(aiohttp.TCPConnector(limit=0, ssl=trusted, force_close=True))

    async def close(self) -> None:
        """Closes every connection."""
        sessions = self._kept, self._fresh
        self._kept = self._fresh = None
        for session in sessions:
            if session is not None:
                await session.close()

    async def request(
        self, method: str, url: URL, headers: Mapping[str, str], data: bytes | None
    ) -> aiohttp.ClientResponse:
        """Sends a request, and once again where its connection was a kept one that the server had closed.

        Returns when the headers of the answer are there; raises what aiohttp raises.

        Raises:
            NotReady: The pool is not open.
        """
        connection = _Connection()
        sent_s = time.monotonic()
        try:
            return await self._send(self._kept, method, url, headers, data, connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            is_stale = connection.was_used and time.monotonic() - sent_s < _STALE_S
            if not (is_stale and _said_nothing(error)):
                raise
        # The pool's next one may be as old.
        return await self._send(self._fresh, method, url, headers, data, _Connection())

    async def _send(
        self,
        session: aiohttp.ClientSession | None,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        data: bytes | None,
        connection: _Connection,
    ) -> aiohttp.ClientResponse:
        if session is None:
            raise NotReady(f"The engine {self._name} is not ready.", instance=self._name)
        # A redirect would carry the key, and the request, to who knows where.
        return await session.request(
            method, url, data=data, headers=headers, allow_redirects=False, trace_request_ctx=connection
        )

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_on_reuse)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            # A compressed answer of a few bytes may be any size, and a stream gains nothing.
            headers={hdrs.ACCEPT_ENCODING: "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            trace_configs=[trace],
        )

    def _trusted(self) -> ssl.SSLContext | bool:
        if self._ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:  # Those of ssl are such, too.
            said = f"The ca_file of {self._name} cannot be used: {type(error).__name__}."
            raise EngineFailed(said, instance=self._name) from None


def distrust(error: aiohttp.ClientConnectorCertificateError) -> str:
    """What is wrong with a server's certificate, after "a certificate that is"."""
    return _DISTRUST.get(getattr(error.certificate_error, "verify_code", 0), "not valid")


def _said_nothing(error: aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) -> bool:
    """Whether a connection was closed, as far as can be seen, before a byte of an answer came."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # Else it is the beginning of an answer.
    return error.errno in (errno.ECONNRESET, errno.EPIPE)
