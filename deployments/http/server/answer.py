"""Answers to requests for generated text: whole, or as a stream."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from deployments.http.server.asking import Asking
from deployments.http.server.connection import ChunkedOutlet, Connection, PlainOutlet
from deployments.http.server.exchange import Exchange
from deployments.http.server.refusals import InternalError
from deployments.http.server.sse_stream import KEEP_ALIVE_S, SseStream
from deployments.http.server.stream_format import ChoiceFormat, StreamFormat
from deployments.request_meter import RequestMeter
from engines.completion import Collector, Completion
from engines.context import Context
from engines.errors import PenstockError
from engines.events import Event, Finished, Started
from engines.sink import Sink

logger = logging.getLogger(__name__)


Hear = Callable[[Event], None]


class _MeteredCollector(Collector):
    """Collects a whole answer, and takes its times."""

    __slots__ = ("_hear", "_meter")

    def __init__(self, meter: RequestMeter, hear: Hear | None) -> None:
        super().__init__()
        self._meter = meter
        self._hear = hear

    def emit(self, event: Event) -> None:
        if not isinstance(event, Started | Finished):
            self._meter.first_token()
            self._meter.tokens += len(getattr(event, "token_ids", ()))
        if self._hear is not None:
            self._hear(event)
        super().emit(event)


class _HeardSink:
    """Tells somebody else each event, too."""

    __slots__ = ("_hear", "_sink")

    def __init__(self, sink: Sink, hear: Hear) -> None:
        self._sink = sink
        self._hear = hear

    def emit(self, event: Event) -> None:
        self._hear(event)
        self._sink.emit(event)

    def fail(self, error: PenstockError) -> None:
        self._sink.fail(error)


async def answer_whole(exchange: Exchange, askings: Sequence[Asking], hear: Hear | None = None) -> list[Completion]:
    """The whole answer to each request.

    Args:
        exchange: What to answer.
        askings: The requests.
        hear: Is told each event, for whom it matters in which order an answer was said; must not raise.

    Raises:
        PenstockError: One of them failed; the others are killed.
    """
    with exchange.context() as context:
        collectors = [_MeteredCollector(exchange.meter, hear) for _ in askings]
        try:
            await _submit(exchange, askings, context, collectors)
            completions = await asyncio.gather(*(collector.completion for collector in collectors))
        finally:
            for collector in collectors:
                # After the first error nobody asks the others for theirs.
                collector.completion.cancel()
        exchange.answered_by(completions[0])
        return completions


async def answer_stream(
    exchange: Exchange,
    askings: Sequence[Asking],
    format: StreamFormat,
    choices: Sequence[Sequence[ChoiceFormat]],
    hear: Hear | None = None,
) -> web.StreamResponse:
    """Streams the answer.

    Args:
        exchange: What to answer.
        askings: The requests.
        format: How the chunks look.
        choices: The same for the choices of each request.
        hear: Is told each event before it is written; must not raise.

    Raises:
        PenstockError: Nothing was sent yet. Later errors are part of the stream.
    """
    with exchange.context() as context:
        stream = SseStream(format, exchange.services.flusher, exchange.meter)
        sinks: list[Sink] = [stream.sink(formats) for formats in choices]
        if hear is not None:
            sinks = [_HeardSink(sink, hear) for sink in sinks]
        connection = exchange.request.protocol
        assert isinstance(connection, Connection)
        early = _EarlyHead(context, lambda: _open_early(exchange, stream, connection))
        try:
            try:
                async with _submitted(exchange, askings, context, stream, sinks):
                    exchange.answered_by(await stream.started)
                    response = await early.response() or await _open(exchange, stream, connection)
                    await _until_ended(exchange, stream, context, connection)
            except Exception as error:
                opened = await early.response()
                if opened is None or isinstance(error, ConnectionError):
                    raise
                # The head is sent: whatever goes wrong from now on is part of the stream.
                response = opened
                stream.fail(_told(exchange, error))
                await _until_ended(exchange, stream, context, connection)
            await response.write_eof(stream.take())
            return response
        finally:
            # Also when the client leaves, which cancels this.
            early.close()
            stream.close()


async def _open_early(exchange: Exchange, stream: SseStream, connection: Connection) -> web.StreamResponse:
    response = await _open(exchange, stream, connection)
    stream.keep_alive()
    return response


def _told(exchange: Exchange, error: Exception) -> PenstockError:
    """An error as a stream tells it, of which nobody further up hears."""
    if isinstance(error, PenstockError):
        return error
    logger.error("request %s failed", exchange.id, exc_info=error)
    return InternalError()


class _EarlyHead:
    """The head of a stream whose request is held until an engine has booted, which may take minutes.

    It is sent once nothing else was sent for as long as a silent stream stays silent, and comments follow it, so that
    proxies keep the connection. Before that an error has an HTTP status of its own.
    """

    def __init__(self, context: Context, open: Callable[[], Coroutine[Any, Any, web.StreamResponse]]) -> None:
        self._open = open
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[web.StreamResponse] | None = None
        self._is_closed = False
        context.on_held(self._held)

    async def response(self) -> web.StreamResponse | None:
        """The response, if its head was sent, or is about to be. It is not sent from here any more."""
        self._stop()
        return None if self._opening is None else await self._opening

    def close(self) -> None:
        """The answer is over."""
        self._stop()
        if self._opening is not None:
            self._opening.cancel()

    def _stop(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _held(self) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(KEEP_ALIVE_S, self._send)

    def _send(self) -> None:
        self._opening = asyncio.ensure_future(self._open())


async def _until_ended(exchange: Exchange, stream: SseStream, context: Context, connection: Connection) -> None:
    try:
        await stream.settled()
    except PenstockError as error:
        exchange.failed_with = error
        context.kill()
    finally:
        connection.attach(None)


async def open_events(exchange: Exchange) -> web.StreamResponse:
    """Sends the head of an answer of server-sent events."""
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
            hdrs.CACHE_CONTROL: "no-cache",
            # nginx would hold the stream back.
            "X-Accel-Buffering": "no",
        }
    )
    exchange.set_headers(response)
    await response.prepare(exchange.request)
    return response


async def _open(exchange: Exchange, stream: SseStream, connection: Connection) -> web.StreamResponse:
    response = await open_events(exchange)
    chunked = exchange.request.version >= HttpVersion11
    connection.attach(stream)
    stream.open(ChunkedOutlet(connection) if chunked else PlainOutlet(connection))
    return response


@asynccontextmanager
async def _submitted(
    exchange: Exchange, askings: Sequence[Asking], context: Context, stream: SseStream, sinks: Sequence[Sink]
) -> AsyncIterator[None]:
    """Submits the requests of a stream, which begins as soon as one of them has started."""
    if len(askings) == 1:
        await _submit(exchange, askings, context, sinks)
        yield
        return

    def note(task: "asyncio.Future[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            stream.fail(_told(exchange, error))

    submitting = asyncio.ensure_future(_submit(exchange, askings, context, sinks))
    submitting.add_done_callback(note)
    try:
        yield
    finally:
        submitting.cancel()


async def _submit(exchange: Exchange, askings: Sequence[Asking], context: Context, sinks: Sequence[Sink]) -> None:
    """Submits the requests; returns when all of them have started."""
    exchange.meter.choices = sum(asking.request.sampling.n for asking in askings)
    # What is large was parsed in the turn before this one, and is sent up in the next.
    await exchange.turn()
    if len(askings) == 1:
        with askings[0].names.spoken():
            await exchange.engine(askings[0].request.model).submit(askings[0].request, context, sinks[0])
        return

    async def submit(index: int) -> None:
        with askings[index].names.spoken():
            request = askings[index].request
            engine = exchange.engine(request.model)
            await engine.submit(request, context.child(f"{context.id}-{index}"), sinks[index])

    await asyncio.gather(*(submit(index) for index in range(len(askings))))
