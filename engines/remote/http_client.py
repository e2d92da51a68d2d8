"""HTTP to one remote server: one pool of connections, and every failure an error of the contract."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
from aiohttp import hdrs
from yarl import URL

from engines.errors import EngineFailed, InstanceLost, Timeout, TimeoutPhase
from engines.remote.connections import Connections, distrust
from engines.remote.failures import Asked, parse_error, status_error, stream_error
from engines.remote.json_slices import loads_in_slices
from engines.remote.options import RemoteOptions
from engines.remote.transport import Transport

MAX_ERROR_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 128 * 2**20
"""Largest answer that is no stream: 2,048 vectors of 8,192 floats in base64 are 90 MB."""
BESIDE_BYTES = 256 * 1024
"""Answers that are larger are parsed beside the event loop."""
SILENCES = 10
"""How often `idle_s` may pass in a stream while only comments and pings come."""


class HttpClient:
    """Asks one server.

    Args:
        name: The engine's name, for errors.
        options: The engine's options.
        headers: The headers that every request carries, made of the API key.
        transport: Signs requests, and reads refusals.
    """

    def __init__(
        self,
        name: str,
        options: RemoteOptions,
        headers: Callable[[str | None], Mapping[str, str]],
        transport: Transport,
    ) -> None:
        self._name = name
        self._headers = headers
        self._transport = transport
        self._idle_s = options.idle_s
        self._connect_s = options.connect_s
        self._connections = Connections(name, options)

    @property
    def silence_s(self) -> float:
        """Seconds that may pass in a stream between two parts of the answer, whatever else is sent."""
        return SILENCES * self._idle_s

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._connections.is_open

    def open(self) -> None:
        """Makes the pool of connections; nothing is sent.

        Raises:
            EngineFailed: `ca_file` cannot be read, or has no certificates in it.
        """
        self._connections.open()

    async def close(self) -> None:
        """Closes every connection."""
        await self._connections.close()

    @asynccontextmanager
    async def stream(self, url: str, body: Mapping[str, Any], asked: Asked) -> AsyncIterator[aiohttp.StreamReader]:
        """Posts JSON, and gives the bytes of the stream that comes back.

        Leaving it before the stream's end closes the connection, which tells the server to stop.

        Raises:
            PenstockError: It was refused, it was not answered with a stream, or the way to the server failed.
        """
        async with self._request(hdrs.METH_POST, url, body, asked, {hdrs.ACCEPT: self._transport.accept}) as response:
            if response.content_type in ("application/json", "text/html", "application/xhtml+xml"):
                raise await self._no_stream(response, asked)
            yield response.content

    async def post(self, url: str, body: Mapping[str, Any], asked: Asked) -> Any:
        """Posts JSON, and returns the JSON value of the answer.

        Raises:
            PenstockError: It was refused, it was not answered with JSON, or the way to the server failed.
        """
        async with self._request(hdrs.METH_POST, url, body, asked) as response:
            return await self._json(response, asked)

    async def get(self, url: str, asked: Asked) -> Any:
        """The JSON value at a URL; raises what `post` raises."""
        async with self._request(hdrs.METH_GET, url, None, asked) as response:
            return await self._json(response, asked)

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, body: Mapping[str, Any] | None, asked: Asked, headers: Mapping[str, str] = {}
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        all_headers = {**self._headers(asked.secret), **headers}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            all_headers[hdrs.CONTENT_TYPE] = "application/json"
        with self.failures("first_token"):
            # The limit is for a server that does not read: aiohttp counts the silence from the end of the body only.
            async with asyncio.timeout(self._connect_s + self._idle_s):
                sent = URL(url)
                signed = await self._transport.signed(method, str(sent), all_headers, data)
                response = await self._connections.request(method, sent, signed, data)
            try:
                if response.status >= 300:
                    text = await self._error_text(response)
                    raise self._transport.refusal(response.status, text, response.headers, asked)
                yield response
            finally:
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()  # At once: what is still to come is not wanted.

    async def _json(self, response: aiohttp.ClientResponse, asked: Asked) -> Any:
        text = await _read(response, MAX_ANSWER_BYTES)
        try:
            if len(text) > BESIDE_BYTES:
                answer = await asyncio.to_thread(loads_in_slices, text)
            else:
                answer = json.loads(text)
        except (ValueError, RecursionError):
            raise EngineFailed(f"The server behind {self._name} answered with no JSON.", instance=self._name) from None
        error = parse_error(answer)
        if error is not None:
            raise status_error(error.status or 500, error, asked)
        return answer

    async def _error_text(self, response: aiohttp.ClientResponse) -> bytes:
        """The body of a refusal, or nothing where it does not come whole: the status says enough."""
        try:
            async with asyncio.timeout(self._idle_s):
                return bytes(await _read(response, MAX_ERROR_BYTES))
        except (TimeoutError, aiohttp.ClientError, OSError):
            return b""

    async def _no_stream(self, response: aiohttp.ClientResponse, asked: Asked) -> Exception:
        text = await self._error_text(response)
        error = None
        if response.content_type == "application/json":
            try:
                error = stream_error(json.loads(text), asked)
            except (ValueError, RecursionError):
                error = None
        what = "a page" if response.content_type != "application/json" else "one piece"
        said = f"The server behind {self._name} answered with {what} where a stream was asked for."
        return error or EngineFailed(said, instance=self._name)

    @contextmanager
    def failures(self, phase: TimeoutPhase) -> Iterator[None]:
        """What fails on the way to the server and back becomes an error of the contract.

        Args:
            phase: What is waited for inside.
        """
        try:
            yield
        except aiohttp.ConnectionTimeoutError:
            raise self._lost(f"could not be reached within {self._connect_s:g} s") from None
        except TimeoutError:
            raise Timeout(phase, self._idle_s).at(self._name) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise self._lost(f"has a TLS certificate that is {distrust(error)}") from None
        except aiohttp.ClientSSLError:
            raise self._lost("does not agree with us on TLS") from None
        except aiohttp.ClientConnectorError:
            raise self._lost("could not be reached") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(f"broke the connection ({type(error).__name__})") from None

    def _lost(self, how: str) -> InstanceLost:
        return InstanceLost(f"The server behind {self._name} {how}.", instance=self._name)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytearray:
    """The body, or its first `limit` bytes; what is cut off is no JSON any more."""
    pieces = bytearray()
    async for piece in response.content.iter_any():
        pieces += piece
        if len(pieces) > limit:
            break
    del pieces[limit:]
    return pieces


async def end_of(content: aiohttp.StreamReader, within_s: float = 1.0) -> None:
    """Reads on to the end of a body that should be over, so that its connection can be used again.

    Args:
        content: The body.
        within_s: Seconds after which its connection is given up instead.
    """
    try:
        async with asyncio.timeout(within_s):
            while await content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError, OSError):
        return
