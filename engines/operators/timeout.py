"""Timeout: an answer that does not come, does not go on, or does not end in time is ended with an error."""

import asyncio
import math
import time
from collections.abc import Callable

from pydantic import Field

from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.errors import PenstockError, Timeout, TimeoutPhase
from engines.events import Event, Started, Terminal
from engines.operators.operator import OperatorOptions, Transparent
from engines.requests import GenerateRequest
from engines.sink import Sink


class TimeoutOptions(OperatorOptions):
    """How long an answer may take; what is None may take forever.

    Attributes:
        first_event_s: Seconds from the request to the first piece of the answer; `Started` alone is none.
        between_events_s: Seconds from one piece to the next.
        total_s: Seconds from the request to the end of the answer.
    """

    first_event_s: float | None = Field(None, gt=0)
    between_events_s: float | None = Field(None, gt=0)
    total_s: float | None = Field(None, gt=0)


class Timeouts(Transparent):
    """Ends what takes too long, and what outlives the deadline of its context, with `Timeout`.

    Until `Started` that is a setup error, as if the engine had refused; later the stream's. The engine's end of the
    request is killed, either way.

    Args:
        options: How long an answer may take.
    """

    def __init__(self, options: TimeoutOptions | None = None) -> None:
        self.options = options or TimeoutOptions()

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises Timeout where that takes too long."""
        stream = _TimedStream(self.options, context, sink)
        try:
            async with asyncio.timeout_at(_or_none(stream.due()[0])) as limit:
                stream.setup = limit
                await self.inner.submit(request, stream.context, stream)
                stream.setup = None
        except TimeoutError:
            if not limit.expired():
                raise
            if stream.has_started:
                stream.expire()
            else:
                raise stream.give_up() from None
        except BaseException:
            stream.end()
            raise
        else:
            stream.watch()

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises Timeout where that takes longer than `total_s`."""
        inner = context.child()
        began_s = time.monotonic()
        inner.deadline_s = min(inner.deadline_s, began_s + (self.options.total_s or math.inf))
        try:
            async with asyncio.timeout_at(_or_none(inner.deadline_s)) as limit:
                return await self.inner.call(request, inner)
        except TimeoutError:
            if not limit.expired():
                raise
            raise Timeout("total", inner.deadline_s - began_s) from None
        finally:
            inner.kill()


class _TimedStream:
    """Passes a stream on, and ends it when something is due and has not come.

    One timer per stream, which looks again when it rings: an event only notes the time.

    Attributes:
        setup: The limit of what is done until the request is accepted; None when that is over.
        context: The engine's, which is killed when the stream is given up.
        has_started: Whether `Started` came.
        emit, fail: As `Sink` has them; the caller's own once there is nothing left to wait for.
    """

    __slots__ = (
        "_began_s",
        "_between_s",
        "_first_s",
        "_heard_s",
        "_sink",
        "_timer",
        "context",
        "emit",
        "fail",
        "has_started",
        "setup",
    )

    def __init__(self, options: TimeoutOptions, context: Context, sink: Sink) -> None:
        self._began_s = self._heard_s = time.monotonic()
        self._first_s = options.first_event_s
        self._between_s = options.between_events_s
        self._sink = sink
        self._timer: asyncio.TimerHandle | None = None
        self.context = context.child()
        self.context.deadline_s = min(context.deadline_s, self._began_s + (options.total_s or math.inf))
        self.has_started = False
        self.setup: asyncio.Timeout | None = None
        self.emit: Callable[[Event], None] = self._before_first
        self.fail: Callable[[PenstockError], None] = self._fail

    def due(self) -> tuple[float, TimeoutPhase]:
        """When the stream is to be given up unless something comes, on the monotonic clock, and what for."""
        waits_for_first = self.emit == self._before_first
        limit_s = self._first_s if waits_for_first else self._between_s
        due_s = math.inf if limit_s is None else self._heard_s + limit_s
        if self.context.deadline_s <= due_s:
            return self.context.deadline_s, "total"
        return due_s, "first_token" if waits_for_first else "between_tokens"

    def watch(self) -> None:
        """Begins to look at the clock; nothing where the stream is over, or may take forever."""
        due_s, _ = self.due()
        if due_s < math.inf and self.emit is not _drop:
            self._timer = asyncio.get_running_loop().call_at(due_s, self._look)

    def give_up(self) -> Timeout:
        """Ends the engine's part of the stream; what the caller is to be told."""
        due_s, phase = self.due()
        self.end()
        self.context.kill()
        return Timeout(phase, due_s - (self._heard_s if phase == "between_tokens" else self._began_s))

    def expire(self) -> None:
        """Fails the stream."""
        sink = self._sink
        sink.fail(self.give_up())

    def end(self) -> None:
        """Hears nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.emit = self.fail = _drop

    def _look(self) -> None:
        if self.due()[0] <= time.monotonic():
            self.expire()
        else:
            self.watch()

    def _before_first(self, event: Event) -> None:
        if isinstance(event, Started):
            self.has_started = True
        elif isinstance(event, Terminal):
            self.end()
        else:
            self._first_came()
        self._sink.emit(event)

    def _first_came(self) -> None:
        self.emit = self._after_first
        self._heard_s = time.monotonic()
        if self.due()[0] == math.inf:
            # Nothing is waited for any more: what comes goes by without a stop here.
            self.end()
            self.emit, self.fail = self._sink.emit, self._sink.fail
        elif self.setup is not None:
            self.setup.reschedule(_or_none(self.due()[0]))
        else:
            if self._timer is not None:
                self._timer.cancel()
            self.watch()

    def _after_first(self, event: Event) -> None:
        self._heard_s = time.monotonic()
        if isinstance(event, Terminal):
            self.end()
        self._sink.emit(event)

    def _fail(self, error: PenstockError) -> None:
        self.end()
        self._sink.fail(error)


def _drop(_: object) -> None:
    """Takes what comes after the end."""


def _or_none(due_s: float) -> float | None:
    return due_s if due_s < math.inf else None
