"""Breaker: an engine that fails again and again is left alone for a while (a circuit breaker).

Closed, every request passes. So many faults within a window open it: requests are refused at once with `CircuitOpen`.
After a cool-down it is half open: one request at a time is let through as a probe. A probe that gets an answer closes
it, one that ends in another fault opens it again, and one that says nothing of the engine (the caller left, or asked
for nonsense) leaves it half open for the next.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.errors import (
    CircuitOpen,
    Draining,
    EngineFailed,
    EngineFault,
    OtherVocabulary,
    PenstockError,
    StreamBroken,
    Timeout,
    Unavailable,
)
from engines.events import Event, Finished, Started
from engines.operators.operator import OperatorOptions, Transparent
from engines.requests import GenerateRequest
from engines.sink import Sink

BreakerState = Literal["closed", "open", "half_open"]


class BreakerOptions(OperatorOptions):
    """When to leave an engine alone, and for how long.

    Attributes:
        failures: Faults within `window_s` that open the breaker.
        window_s: Seconds for which a fault counts.
        cool_down_s: Seconds for which it then stays open.
    """

    failures: int = Field(5, ge=1)
    window_s: float = Field(30.0, gt=0)
    cool_down_s: float = Field(15.0, gt=0)


@dataclass(frozen=True, slots=True)
class BreakerTurned:
    """A breaker changed its state.

    Attributes:
        engine: Name of the engine that it is around.
        state: What it is now.
    """

    engine: str
    state: BreakerState


def blames_engine(error: PenstockError) -> bool:
    """Whether an error says that the engine is ill, rather than busy, about to end, or asked for nonsense."""
    if isinstance(error, CircuitOpen | Draining | OtherVocabulary | EngineFault):
        return False
    return isinstance(error, StreamBroken | EngineFailed | Timeout | Unavailable)


class Breaker(Transparent):
    """Refuses requests while the engine that it is around fails. Reports `BreakerTurned`.

    Args:
        options: When, and for how long.
        clock: Seconds that only grow.
    """

    def __init__(self, options: BreakerOptions | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options or BreakerOptions()
        self._clock = clock
        self._faults: deque[float] = deque(maxlen=self.options.failures)
        self._open_until_s = -math.inf
        self._state: BreakerState = "closed"
        self._probe: object | None = None

    @property
    def state(self) -> BreakerState:
        """What it is now."""
        if self._state == "open" and self._clock() >= self._open_until_s:
            self._turn("half_open")
        return self._state

    @property
    def ready(self) -> bool:
        """Whether the next request would pass to an engine that is ready."""
        return self.inner.ready and (self.state == "closed" or (self.state == "half_open" and self._probe is None))

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted.

        Raises:
            CircuitOpen: The engine is left alone.
            PenstockError: As the engine says.
        """
        with self._admitted() as admitted:
            await self.inner.submit(request, context, _JudgedStream(self, admitted, sink))

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream; raises what `submit` raises."""
        with self._admitted() as admitted:
            answer = await self.inner.call(request, context)
        self.answered(admitted)
        return answer

    def answered(self, admitted: object) -> None:
        """The engine has begun to answer a request: it works, whatever becomes of the rest."""
        if admitted is self._probe:
            self._probe = None
            self._turn("closed")

    def failed(self, admitted: object, error: PenstockError) -> None:
        """A request ended with an error, before anything was said or later."""
        is_fault = blames_engine(error)
        if admitted is self._probe:
            self._probe = None
            if is_fault:
                self._open()
        elif is_fault and self._state == "closed":
            now_s = self._clock()
            self._faults.append(now_s)
            if len(self._faults) == self.options.failures and now_s - self._faults[0] <= self.options.window_s:
                self._open()

    def left(self, admitted: object) -> None:
        """A request ended and says nothing of the engine: its caller left first."""
        if admitted is self._probe:
            self._probe = None

    @contextmanager
    def _admitted(self) -> Iterator[object]:
        """Lets a request pass, and hears of what it fails with inside. Raises CircuitOpen where it may not."""
        admitted = self._admit()
        try:
            yield admitted
        except PenstockError as error:
            self.failed(admitted, error)
            raise
        except BaseException:
            self.left(admitted)
            raise

    def _admit(self) -> object:
        state = self.state
        if state == "open" or self._probe is not None:
            wait_s = max(self._open_until_s - self._clock(), 1.0)
            raise CircuitOpen(f"The model {self.name!r} failed too often, and is left alone.", retry_after_s=wait_s)
        admitted = object()
        if state == "half_open":
            self._probe = admitted
        return admitted

    def _open(self) -> None:
        self._faults.clear()
        self._open_until_s = self._clock() + self.options.cool_down_s
        self._turn("open")

    def _turn(self, state: BreakerState) -> None:
        self._state = state
        self.report(BreakerTurned(self.name, state))


class _JudgedStream:
    """Passes a stream on, and tells the breaker what it says of the engine.

    Attributes:
        emit: Takes the next event; the caller's own once something came.
    """

    __slots__ = ("_admitted", "_breaker", "_sink", "emit")

    def __init__(self, breaker: Breaker, admitted: object, sink: Sink) -> None:
        self._breaker = breaker
        self._admitted = admitted
        self._sink = sink
        self.emit: Callable[[Event], None] = self._first

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream."""
        self._breaker.failed(self._admitted, error)
        self._sink.fail(error)

    def _first(self, event: Event) -> None:
        if isinstance(event, Finished) and event.reason == "cancelled":
            self._breaker.left(self._admitted)
        elif not isinstance(event, Started):
            self._breaker.answered(self._admitted)
            self.emit = self._sink.emit
        self._sink.emit(event)
