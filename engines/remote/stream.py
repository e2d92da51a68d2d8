"""One request to a remote server: from its first byte to the one event or error that ends it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import aiohttp

from engines.context import Context
from engines.errors import EngineFailed, InstanceLost, PenstockError, StreamIncomplete, Timeout, TimeoutPhase
from engines.events import Event, Finished, Started, Terminal, Usage
from engines.remote.failures import Asked
from engines.remote.http_client import HttpClient, end_of
from engines.remote.sse import MalformedStream, ServerSentEvent
from engines.remote.transport import StreamParser
from engines.requests import GenerateRequest
from engines.sink import Sink


class StreamReader(Protocol):
    """Turns the events of one API's stream into ours."""

    @property
    def usage(self) -> Usage:
        """The tokens of the request, so far as the server has told of them."""

    def read(self, event: ServerSentEvent) -> list[Event]:
        """Our events; the last one is `Finished` where the stream says that it is over.

        Raises:
            PenstockError: The event is an error.
            MalformedStream: It is none that the API has.
        """

    def end(self) -> Finished | None:
        """What the end of the bytes means: the end of the answer, or None where it was not complete."""


class RemoteStream:
    """One request under way: its sink, its context, and the task that reads its answer.

    Args:
        engine: Name of the engine.
        request: What was asked.
        context: Its context.
        sink: Where the events go.
        reader: Reads the API's events.
        on_over: Called once, when its end is told.
    """

    def __init__(
        self,
        engine: str,
        request: GenerateRequest,
        context: Context,
        sink: Sink,
        reader: StreamReader,
        on_over: Callable[[], None],
    ) -> None:
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._engine = engine
        self._request = request
        self._context = context
        self._sink = sink
        self._reader = reader
        self._on_over = on_over
        self._over = False
        self._task: asyncio.Task[None] | None = None

    async def run(
        self,
        client: HttpClient,
        parser: StreamParser,
        url: str,
        body: Mapping[str, Any],
        asked: Asked,
        on_closed: Callable[["RemoteStream"], None],
    ) -> None:
        """Asks, and returns once the server has begun to answer; the sink hears the rest.

        Args:
            client: Asks the server.
            parser: Finds the events in the bytes of the answer.
            url: Where.
            body: What.
            asked: The same for errors.
            on_closed: Called once the connection is closed, or free again.

        Raises:
            PenstockError: Setup error; the sink was not called and will not be.
        """
        self._task = asyncio.get_running_loop().create_task(
            self._answer(client, parser, url, body, asked), name=f"answer of {self._engine}"
        )
        self._task.add_done_callback(lambda _: on_closed(self))
        unsubscribe = self._context.on_stop(self._cancelled)
        self._task.add_done_callback(lambda _: unsubscribe())
        try:
            await self._accepted
        except asyncio.CancelledError:
            self._end()
            raise

    async def ended(self) -> None:
        """Returns when its connection is closed or free again."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def fail(self, error: PenstockError) -> None:
        """Ends it with an error, unless it is over."""
        if self._over:
            return
        self._end()
        if self._accepted.done():
            self._sink.fail(error.at(self._engine))
        else:
            self._accepted.set_exception(error.at(self._engine))

    def _cancelled(self, context: Context) -> None:
        if context.is_killed:
            self.fail(context.cancellation())
        elif not self._over:
            self._begin()
            self._emit(Finished.cancelled(self._request.sampling.n, self._engine, self._reader.usage))

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self._on_over()
        # Cancelled, the task closes the connection: that is what makes the server stop.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _begin(self) -> None:
        if not self._accepted.done():
            self._accepted.set_result(None)
            self._sink.emit(Started(self._engine, self._request.model))

    def _emit(self, event: Event) -> None:
        if isinstance(event, Terminal):
            self._end()
        self._sink.emit(event)

    async def _answer(
        self, client: HttpClient, parser: StreamParser, url: str, body: Mapping[str, Any], asked: Asked
    ) -> None:
        try:
            async with client.stream(url, body, asked) as content:
                await self._read(client, parser, content)
                if self._over and not self._context.is_stopped:
                    await end_of(content)
        except PenstockError as error:
            self.fail(error)
        except MalformedStream as error:
            self.fail(InstanceLost(f"The server behind {self._engine} sent what is no stream of this API: {error}."))
        except Exception as error:  # noqa: BLE001 - the sink's owner waits: it must hear of a bug, too
            what = f"{type(error).__name__}: {asked.clean(str(error))}"
            self.fail(EngineFailed(f"The engine {self._engine} failed: {what}"))

    async def _read(self, client: HttpClient, parser: StreamParser, content: aiohttp.StreamReader) -> None:
        """Reads until the answer is over, or until it was ended from outside."""
        try:
            heard_s = time.monotonic()
            while not self._over:
                phase: TimeoutPhase = "between_tokens" if self._accepted.done() else "first_token"
                with client.failures(phase):
                    piece = await content.readany()
                if not piece:
                    break
                for event in parser.feed(piece):
                    self._take(event)
                    if self._over:
                        return
                    if event.type != "ping":
                        heard_s = time.monotonic()
                # Comments and pings keep a connection, and say that a server lives: not that it will ever answer. Each
                # of them comes here, and without any the client's own limit ends the wait.
                if time.monotonic() - heard_s > client.silence_s:
                    raise Timeout(phase, client.silence_s)
        except PenstockError:
            # A server that said everything may fail to say goodbye.
            finished = self._reader.end()
            if finished is None:
                raise
            self._finish(finished)
            return
        if not self._over:
            finished = self._reader.end()
            if finished is None:
                raise StreamIncomplete(f"The server behind {self._engine} ended the answer before it was complete.")
            self._finish(finished)

    def _take(self, event: ServerSentEvent) -> None:
        events = self._reader.read(event)
        self._begin()
        for ours in events:
            # The sink may have stopped or killed the request meanwhile.
            if self._over:
                return
            self._emit(ours)

    def _finish(self, finished: Finished) -> None:
        self._begin()
        if not self._over:
            self._emit(finished)
