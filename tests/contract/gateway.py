"""A provider's gateway in front of a server that answers: its own addresses, its own check of who asks, its framing."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import aiohttp
from aiohttp import web


class Gateway(ABC):
    """Refuses what the provider would refuse, and passes the rest on.

    Pieces of streams are passed on as they come. A client that leaves ends the request behind the gateway.

    Args:
        upstream: Where the server behind it answers.
    """

    stream_type: ClassVar[str]
    """The media type of its streams."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    @abstractmethod
    def routes(self) -> Iterable[web.RouteDef]:
        """What it answers."""

    @abstractmethod
    def framed(self, stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
        """The stream of the server behind it, as the provider frames it."""

    @abstractmethod
    def refused(self, status: int, body: bytes) -> web.Response:
        """What the server behind it refused, as the provider writes it."""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Where it answers, for as long as the context is open."""
        app = web.Application()
        app.add_routes(self.routes())
        # Without the cancellation nobody would tell the server behind it that a client has left.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        # The server behind it may close a connection that was idle just when it is used again.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(self._upstream, connector=connector) as self._session:
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()

    async def passed_on(self, request: web.Request, path: str, body: Mapping[str, Any]) -> web.StreamResponse:
        """The answer of the server behind it."""
        assert self._session is not None
        async with self._session.post(path, json=body) as theirs:
            if theirs.status >= 300:
                return self.refused(theirs.status, await theirs.read())
            if theirs.content_type != "text/event-stream":
                return web.Response(body=await theirs.read(), content_type=theirs.content_type)
            answer = web.StreamResponse(headers={"Content-Type": self.stream_type})
            await answer.prepare(request)
            async for piece in self.framed(theirs.content):
                await answer.write(piece)
            await answer.write_eof()
            return answer
