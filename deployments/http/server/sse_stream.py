"""A streamed answer: events in, bytes of server-sent events out, without a task or a queue in between.

Each event is taken by a synchronous call. What the events of one turn of the event loop add up to is written in one
piece at the end of that turn. While the client does not keep up, nothing is written and nothing but text is kept:
pieces of one kind and choice grow together into one chunk. What waits is measured now and then, and bounded: see
`deployments.http.server.unread`.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from deployments.http.server.stream_format import ChoiceFormat, Extras, StreamFormat
from deployments.http.server.unread import Unread
from deployments.request_meter import RequestMeter
from engines.errors import PenstockError, ReaderTooSlow
from engines.events import (
    Delta,
    Event,
    Finished,
    ReasoningDelta,
    RedactedReasoning,
    Started,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)

KEEP_ALIVE_S = 15.0
"""A stream that was silent for so long says something: some proxies cut a connection after 60 s of silence."""
_KEEP_ALIVE_TICKS = 3
"""It is looked for so often within that time, so that the silence is at most a third longer."""

# What the pieces of a choice that wait to be written are: text, reasoning, or arguments of the call of that number.
_UNOPENED = -4
_CLOSED = -3
_TEXT = -2
_REASONING = -1

_JOIN_AFTER = 1024
"""Pieces after which a waiting choice joins them into one, so that it holds text and not a list of a million texts."""
MEASURE_S = 0.1
"""How often what waits for a client is measured."""


class Outlet(Protocol):
    """Where the bytes go."""

    @property
    def writable(self) -> bool:
        """Whether the client keeps up; when it does again, `SseStream.flush` is called."""

    @property
    def unsent(self) -> int:
        """Bytes that were sent and that the client has not taken."""

    def send(self, data: bytes) -> None:
        """Sends bytes, now and without waiting."""

    def abort(self) -> None:
        """Ends the connection, with all that was not sent."""


class Flusher:
    """Flushes the streams that have something to write, once per turn of the event loop.

    It also keeps the silent ones alive, with one timer for all of them.

    Args:
        unread: Bounds what waits for clients that do not read; None: nothing does.
        keep_alive_s: A stream that was silent for so long says something.
    """

    __slots__ = ("_due", "_loop", "_open", "_tick_s", "_timer", "_unread")

    def __init__(self, unread: Unread | None = None, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._unread = unread
        self._due: list[SseStream] = []
        self._open: dict[SseStream, None] = {}
        self._tick_s = keep_alive_s / _KEEP_ALIVE_TICKS
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: "SseStream") -> None:
        """Flushes the stream at the end of this turn."""
        if not self._due:
            self._loop.call_soon(self._flush)
        self._due.append(stream)

    def keep_alive(self, stream: "SseStream") -> None:
        """Keeps the stream alive, until `let_go`."""
        self._open[stream] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_s, self._tick)

    def let_go(self, stream: "SseStream") -> None:
        """The stream is over."""
        self._open.pop(stream, None)
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        for stream in self._open:
            stream.tick()

    def wait(self, stream: "SseStream") -> None:
        """The stream has something to write, and its client does not read."""
        unread, now_s = self._unread, self._loop.time()
        if unread is not None and now_s - stream.measured_s >= MEASURE_S:
            stream.measured_s = now_s
            unread.note(stream, stream.measure())

    def forget(self, stream: "SseStream") -> None:
        """The stream's client reads again, or is gone."""
        if self._unread is not None:
            self._unread.forget(stream)

    def _flush(self) -> None:
        due, self._due = self._due, []
        for stream in due:
            stream.flush()


class _Choice:
    """What one choice has to say and has not said yet."""

    __slots__ = ("chunks", "format", "kind", "run")

    def __init__(self, format: ChoiceFormat) -> None:
        self.format = format
        self.kind = _UNOPENED
        self.chunks: list[str] = []
        self.run: list[str] = []

    def turn_to(self, kind: int) -> None:
        """Ends the chunk that was growing; the next one is of this kind."""
        if self.kind == _UNOPENED:
            self._append(self.format.opening())
        self.end_run()
        self.kind = kind

    def add(self, chunk: str) -> None:
        """Adds a chunk that does not grow."""
        self.turn_to(_CLOSED)
        self._append(chunk)

    def end_run(self) -> None:
        """Ends the chunk that was growing."""
        run = self.run
        if not run:
            return
        text = run[0] if len(run) == 1 else "".join(run)
        run.clear()
        kind = self.kind
        if kind == _TEXT:
            self._append(self.format.text(text))
        elif kind == _REASONING:
            self._append(self.format.reasoning(text))
        else:
            self._append(self.format.tool_arguments(kind, text))

    def take(self) -> str:
        """The chunks so far."""
        self.end_run()
        chunks = self.chunks
        if len(chunks) == 1:
            return chunks.pop()
        taken = "".join(chunks)
        chunks.clear()
        return taken

    def settle(self) -> tuple[str, int]:
        """The chunks that do not grow any more, which are taken out, and the characters of the one that does."""
        settled = "".join(self.chunks)
        self.chunks.clear()
        return settled, sum(map(len, self.run))

    def drop(self) -> None:
        """Forgets what waits."""
        self.chunks.clear()
        self.run.clear()

    def grow(self, piece: str) -> None:
        """Adds a piece to the chunk that grows."""
        run = self.run
        run.append(piece)
        if len(run) >= _JOIN_AFTER:
            run[:] = ["".join(run)]

    def _append(self, chunk: str) -> None:
        chunks = self.chunks
        chunks.append(chunk)
        if len(chunks) >= _JOIN_AFTER:
            chunks[:] = ["".join(chunks)]


class SseStream:
    """One streamed answer. It may be made of several requests, one per prompt; each one gets a sink from `sink`.

    Attributes:
        started: Done with the first `Started`, or with the error that came instead.
        ended: Done when everything was said, well or with an error; what is not written yet is in `take`.
        measured_s: When what waits was measured last, by the loop's clock; 0: nothing waits.
    """

    __slots__ = (
        "_backlog",
        "_backlog_chars",
        "_due",
        "_flusher",
        "_format",
        "_late",
        "_meter",
        "_open",
        "_outlet",
        "_silent_ticks",
        "_sinks",
        "_usage",
        "ended",
        "measured_s",
        "started",
    )

    def __init__(self, format: StreamFormat, flusher: Flusher, meter: RequestMeter) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._format = format
        self._flusher = flusher
        self._meter = meter
        self._outlet: Outlet | None = None
        self._sinks: list[SseSink] = []
        self._open = 0
        self._due = False
        self._silent_ticks = 0
        self._usage = Usage()
        self._late: PenstockError | None = None
        # What precedes all chunks, and what was measured already, in the order in which it will be written.
        self._backlog: list[str] = []
        self._backlog_chars = 0
        self.measured_s = 0.0

    def sink(self, choices: Sequence[ChoiceFormat]) -> "SseSink":
        """The sink of one request, whose choices are these. Ask for all of them before the first event."""
        sink = SseSink(self, choices, self._format, self._meter)
        self._sinks.append(sink)
        self._open += 1
        return sink

    def open(self, outlet: Outlet) -> None:
        """Starts to write: the head of the response is sent."""
        self._outlet = outlet
        self._flusher.keep_alive(self)
        self.flush()

    def close(self) -> None:
        """Writes nothing more by itself, and keeps nothing for its client."""
        self._outlet = None
        # They know the stream: a large request must not wait for the garbage collector.
        self._sinks = []
        self._flusher.let_go(self)
        self._caught_up()

    def tick(self) -> None:
        """Called by the flusher's timer: says something when nothing was said for a while."""
        self._silent_ticks += 1
        outlet = self._outlet
        if self._silent_ticks > _KEEP_ALIVE_TICKS and outlet is not None and outlet.writable and not self.ended.done():
            self._silent_ticks = 1  # This tick's.
            self.keep_alive()

    def keep_alive(self) -> None:
        """Says something that means nothing."""
        if self._outlet is not None:
            self._outlet.send(self._format.keep_alive.encode("ascii"))

    def flush(self) -> None:
        """Writes what there is, if the client keeps up."""
        self._due = False
        outlet = self._outlet
        # The last piece is written by whoever waits for `ended`, together with the end of the body.
        if self.ended.done():
            return
        if outlet is None or not outlet.writable:
            self._flusher.wait(self)
            return
        if self.measured_s:
            self._caught_up()
        payload = self._taken()
        if payload:
            self._silent_ticks = 0
            outlet.send(payload.encode("ascii"))

    async def settled(self) -> None:
        """Returns once everything was said, and what the format wants done before its end is told.

        Raises:
            PenstockError: What the answer breaks off with.
        """
        try:
            await self.ended
        except PenstockError as error:
            await self._format.before_end(self._usage, error)
            raise
        try:
            await self._format.before_end(self._usage, None)
        except PenstockError as error:
            self._late = error
            raise

    def take(self) -> bytes:
        """What is not written yet, after `settled`: the rest of the answer and its trailer."""
        return self._taken().encode("ascii")

    def _caught_up(self) -> None:
        """Nothing waits for the client any more: it has read everything, or is gone."""
        self.measured_s = 0.0
        self._flusher.forget(self)

    def measure(self) -> int:
        """How much waits for the client, in bytes."""
        growing = 0
        for sink in self._sinks:
            settled, chars = sink.settle()
            growing += chars
            if settled:
                self._backlog.append(settled)
                self._backlog_chars += len(settled)
        return self._backlog_chars + growing + (self._outlet.unsent if self._outlet is not None else 0)

    def give_up(self) -> None:
        """Too much waits for a client that does not read: lets go of it, and ends the stream."""
        if self.ended.done():
            if self._outlet is not None:
                self._outlet.abort()
            return
        for sink in self._sinks:
            sink.drop()
        self._backlog.clear()
        self._backlog_chars = 0
        self.fail(ReaderTooSlow("The client did not read the answer, and too much of it waited."))

    def touch(self) -> None:
        """Something is to be written."""
        if not self._due:
            self._due = True
            self._flusher.add(self)

    def begin(self, event: Started) -> None:
        """One of the requests started."""
        if self.started.done():
            return
        beginning = self._format.beginning(event)
        if beginning:
            self._backlog.append(beginning)
            self._backlog_chars += len(beginning)
        self.started.set_result(event)

    def finish(self, usage: Usage) -> None:
        """One of the requests finished."""
        self._usage += usage
        self._open -= 1
        if self._open:
            self.touch()
        elif not self.ended.done():
            self._meter.finish(self._usage)
            self.ended.set_result(None)

    def fail(self, error: PenstockError) -> None:
        """One of the requests failed, and the answer with it."""
        for future in (self.started, self.ended):
            if not future.done():
                future.set_exception(error)
                # Where nobody waits for it any more, asyncio would complain that nobody asked.
                future.exception()

    def _taken(self) -> str:
        sinks = self._sinks
        pieces = sinks[0].take() if len(sinks) == 1 else "".join([sink.take() for sink in sinks])
        if self._backlog:
            pieces = "".join((*self._backlog, pieces))
            self._backlog.clear()
            self._backlog_chars = 0
        return pieces + self._trailer() if self.ended.done() else pieces

    def _trailer(self) -> str:
        error = self._late or self.ended.exception()
        if isinstance(error, PenstockError):
            return self._format.failure(error)
        return self._format.ending(self._usage)


class SseSink:
    """The sink of one request of a streamed answer."""

    __slots__ = ("_choices", "_format", "_meter", "_plain", "_prompt_tokens", "_stream")

    def __init__(
        self, stream: SseStream, choices: Sequence[ChoiceFormat], format: StreamFormat, meter: RequestMeter
    ) -> None:
        self._stream = stream
        self._choices = [_Choice(choice) for choice in choices]
        self._format = format
        self._meter = meter
        self._prompt_tokens = 0
        report = format.report
        # With these every event is a chunk by itself.
        self._plain = not (report.usage_so_far or report.token_ids)

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        if type(event) is TextDelta and self._plain and event.logprobs is None:
            self._meter.tokens += len(event.token_ids)
            self._grow(_TEXT, event.text, event.index)
        elif type(event) is Started:
            self._prompt_tokens = event.prompt_tokens or 0
            self._stream.begin(event)
        elif type(event) is Finished:
            self._finish(event)
        else:
            self._take_delta(event)  # type: ignore[arg-type]

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream."""
        self._stream.fail(error)

    def take(self) -> str:
        """The chunks that are not written yet."""
        choices = self._choices
        return choices[0].take() if len(choices) == 1 else "".join([choice.take() for choice in choices])

    def settle(self) -> tuple[str, int]:
        """Takes out the chunks of all choices that do not grow any more; and the characters of those that do."""
        settled = [choice.settle() for choice in self._choices]
        return "".join([text for text, _ in settled]), sum(chars for _, chars in settled)

    def drop(self) -> None:
        """Forgets what waits."""
        for choice in self._choices:
            choice.drop()

    def _grow(self, kind: int, piece: str, index: int) -> None:
        if not piece:
            return
        choice = self._choices[index]
        if choice.kind != kind:
            if choice.kind == _UNOPENED:
                self._meter.first_token()
            choice.turn_to(kind)
        choice.grow(piece)
        self._stream.touch()

    def _take_delta(self, event: Delta) -> None:
        token_ids = () if isinstance(event, RedactedReasoning) else event.token_ids
        self._meter.tokens += len(token_ids)
        if self._plain and not (isinstance(event, TextDelta) and event.logprobs is not None):
            match event:
                case ReasoningDelta():
                    return self._grow(_REASONING, event.text, event.index)
                case ToolCallArgumentsDelta():
                    return self._grow(event.call, event.arguments, event.index)
        choice = self._choices[event.index]
        choice.end_run()
        chunk = _chunk(choice.format, event)
        if not chunk and token_ids and self._format.report.token_ids:
            chunk = choice.format.text("")
        if not chunk:
            return None
        if not self._plain or isinstance(event, TextDelta):
            chunk = choice.format.with_extras(chunk, self._extras(event, token_ids))
        self._meter.first_token()
        choice.add(chunk)
        self._stream.touch()
        return None

    def _extras(self, event: Delta, token_ids: tuple[int, ...]) -> Extras:
        logprobs = event.logprobs if isinstance(event, TextDelta) else None
        return Extras(logprobs, token_ids, self._so_far() if self._format.report.usage_so_far else None)

    def _so_far(self) -> Usage:
        return Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._meter.tokens)

    def _finish(self, event: Finished) -> None:
        stop_reasons = event.stop_reasons or (None,) * len(event.reasons)
        usage = event.usage if self._format.report.usage_so_far else None
        for choice, reason, stop_reason in zip(self._choices, event.reasons, stop_reasons, strict=False):
            choice.end_run()
            choice.add(choice.format.finish(reason, stop_reason, usage))
        self._meter.reasons.update(event.reasons)
        self._stream.finish(event.usage)


def _chunk(format: ChoiceFormat, event: Delta) -> str:
    match event:
        case TextDelta():
            return format.text(event.text)
        case ReasoningDelta():
            return format.reasoning(event.text)
        case RedactedReasoning():
            return format.redacted_reasoning(event.data)
        case ToolCallStarted():
            return format.tool_call(event.call, event.id, event.name)
        case ToolCallArgumentsDelta():
            return format.tool_arguments(event.call, event.arguments)
        case ToolCallFinished():
            return format.tool_end(event.call)
