"""Answers to requests for generated text: whole, or as a stream."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from deployments.http.connection import ChunkedOutlet, Connection, PlainOutlet
from deployments.http.exchange import Exchange
from deployments.http.sse_stream import SseStream
from deployments.http.stream_format import ChoiceFormat, StreamFormat
from deployments.metrics import RequestMeter
from engines.completion import Collector, Completion
from engines.context import Context
from engines.contract import Sink
from engines.errors import PenstockError
from engines.events import Event, Finished, Started
from engines.requests import GenerateRequest


class _MeteredCollector(Collector):
    """Collects a whole answer, and takes its times."""

    __slots__ = ("_meter",)

    def __init__(self, meter: RequestMeter) -> None:
        super().__init__()
        self._meter = meter

    def emit(self, event: Event) -> None:
        if not isinstance(event, Started | Finished):
            self._meter.first_token()
            self._meter.tokens += len(getattr(event, "token_ids", ()))
        super().emit(event)


async def answer_whole(exchange: Exchange, requests: Sequence[GenerateRequest]) -> list[Completion]:
    """The whole answer to each request.

    Raises:
        PenstockError: One of them failed; the others are killed.
    """
    with _context(exchange) as context:
        collectors = [_MeteredCollector(exchange.meter) for _ in requests]
        try:
            await _submit(exchange, requests, context, collectors)
            completions = await asyncio.gather(*(collector.completion for collector in collectors))
        finally:
            for collector in collectors:
                # After the first error nobody asks the others for theirs.
                collector.completion.cancel()
        exchange.instance = completions[0].engine
        return completions


async def answer_stream(
    exchange: Exchange,
    requests: Sequence[GenerateRequest],
    format: StreamFormat,
    choices: Sequence[Sequence[ChoiceFormat]],
) -> web.StreamResponse:
    """Streams the answer.

    Args:
        exchange: What to answer.
        requests: The requests.
        format: How the chunks look.
        choices: The same for the choices of each request.

    Raises:
        PenstockError: Nothing was sent yet. Later errors are part of the stream.
    """
    with _context(exchange) as context:
        stream = SseStream(format, exchange.services.flusher, exchange.meter)
        sinks = [stream.sink(formats) for formats in choices]
        await _submit(exchange, requests, context, sinks)
        exchange.instance = (await stream.started).engine
        connection = exchange.request.protocol
        assert isinstance(connection, Connection)
        response = await _open(exchange, stream, connection)
        try:
            await stream.ended
        except PenstockError as error:
            exchange.failed_with = error
            context.kill()
        finally:
            connection.attach(None)
        await response.write_eof(stream.take())
        return response


async def _open(exchange: Exchange, stream: SseStream, connection: Connection) -> web.StreamResponse:
    request = exchange.request
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
            hdrs.CACHE_CONTROL: "no-cache",
            # nginx would hold the stream back.
            "X-Accel-Buffering": "no",
        }
    )
    exchange.dress(response)
    await response.prepare(request)
    chunked = request.version >= HttpVersion11
    connection.attach(stream)
    stream.open(ChunkedOutlet(connection) if chunked else PlainOutlet(connection))
    return response


async def _submit(
    exchange: Exchange, requests: Sequence[GenerateRequest], context: Context, sinks: Sequence[Sink]
) -> None:
    if len(requests) == 1:
        await exchange.fleet.submit(requests[0], context, sinks[0])
        return
    await asyncio.gather(
        *(
            exchange.fleet.submit(request, context.child(f"{context.id}-{index}"), sink)
            for index, (request, sink) in enumerate(zip(requests, sinks, strict=True))
        )
    )


@contextmanager
def _context(exchange: Exchange) -> Iterator[Context]:
    """The request's context; killed when the answer does not come to its end, as when the client leaves."""
    ids = exchange.services.live_ids
    context = Context(ids.take(exchange.id))
    try:
        yield context
    except BaseException:
        context.kill()
        raise
    finally:
        ids.release(context.id)
