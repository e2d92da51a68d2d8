"""Migration: a stream outlives the engine that carries it.

When an instance is lost in the middle of an answer, the request is submitted again with the token ids generated so
far. The next instance feeds them silently through its own detokenizer, stop strings and parsers and goes on with the
budget that is left, so the caller reads on: no token lost, none repeated.

A request whose state cannot be had again from its ids (several choices, a grammar) starts over instead: freely when
nothing was said yet; and when it decodes greedily, it is told again, and what was said is checked and left out. Any
other fails clearly.
"""

import asyncio
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from engines.context import Context
from engines.contract import Engine, Sink
from engines.errors import (
    Cancelled,
    EngineDead,
    EngineFailed,
    InstanceLost,
    PenstockError,
    StreamBroken,
    Timeout,
)
from engines.events import Delta, Event, Finished, FinishReason, Started, TextDelta, Usage
from engines.messages import NamedToolChoice
from engines.operator import Operator
from engines.requests import GenerateRequest, Resume, Sampling
from engines.retelling import Diverged, Retelling, Telling

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


MoveOutcome = Literal["continued", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Move:
    """What became of a stream that broke.

    Attributes:
        outcome: Another instance went on with it, none could, or its caller gave up.
        pause_s: Seconds from the break to that.
    """

    outcome: MoveOutcome
    pause_s: float


class Migration(Operator):
    """Continues broken streams.

    Args:
        engine: What to submit to: a router, which picks another instance each time.
        limit: How often one stream is moved before it fails; 0: never.
        wait_s: How long a broken stream waits for an instance that takes it.
        on_move: Hears of each break, once it is known what became of the stream.
    """

    def __init__(
        self,
        engine: Engine,
        limit: int = 3,
        wait_s: float = 30.0,
        on_move: Callable[[Move], None] = lambda _: None,
    ) -> None:
        super().__init__(engine)
        self._limit = limit
        self._wait_s = wait_s
        self._on_move = on_move
        self._moves: set[asyncio.Task[None]] = set()

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """As `Engine.submit`. A setup error is the caller's: nothing was said, and the router tried what there is."""
        if not self._limit:
            await self._engine.submit(request, context, sink)
            return
        await self._engine.submit(request, context, _Stream(self, self._limit, request, context, sink))

    def move(self, stream: "_Stream", lost: PenstockError) -> None:
        """Submits a broken stream again, in the background."""
        task = asyncio.get_running_loop().create_task(self._move(stream, lost))
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _move(self, stream: "_Stream", lost: PenstockError) -> None:
        began_s = time.monotonic()
        outcome = await self._find_another(stream, lost, began_s + self._wait_s)
        self._on_move(Move(outcome, time.monotonic() - began_s))

    async def _find_another(self, stream: "_Stream", lost: PenstockError, deadline_s: float) -> MoveOutcome:
        pause_s = _FIRST_PAUSE_S
        while not stream.ends_early():
            try:
                await self._engine.submit(stream.rest(), stream.context, stream)
                return "continued"
            except PenstockError as error:
                left_s = deadline_s - time.monotonic()
                if not error.retryable or left_s <= 0:
                    if stream.ends_early():
                        break
                    stream.give_up(lost, error)
                    return "failed"
            except Exception as error:  # noqa: BLE001 - the caller waits: it must hear of a bug, too
                stream.give_up(lost, EngineFailed(f"{type(error).__name__}: {error}"))
                return "failed"
            # An instance that comes up, or drains its queue, does not say so here; a pause this short nobody notices.
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause_s, left_s)):
                    await stream.context.stopped()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return "cancelled"


class _Stream:
    """One answer, carried by one instance after another: the sink of each, in front of the caller's.

    Attributes:
        context: The request's.
    """

    __slots__ = (
        "_emit",
        "_ids",
        "_limit",
        "_migration",
        "_moves",
        "_request",
        "_retelling",
        "_sink",
        "_started",
        "_telling",
        "context",
    )

    def __init__(
        self, migration: Migration, limit: int, request: GenerateRequest, context: Context, sink: Sink
    ) -> None:
        self.context = context
        self._migration = migration
        self._limit = limit
        self._request = request
        self._sink = sink
        self._emit: Callable[[Event], None] = sink.emit
        self._moves = 0
        self._started: Started | None = None
        # Four bytes each: a thousand long answers are kept at a time.
        self._ids = array("i", request.resume.token_ids if request.resume is not None else ())
        # What was said, where the ids are not enough to go on from.
        self._telling = None if migration.capabilities.resume and _is_resumable(request) else Telling()
        self._retelling: Retelling | None = None

    def emit(self, event: Event) -> None:
        """As `Sink.emit`."""
        if type(event) is TextDelta and self._telling is None:
            self._ids.extend(event.token_ids)
            self._emit(event)
        elif isinstance(event, Started):
            if self._started is None:
                self._started = event
                self._emit(event)
        elif isinstance(event, Finished):
            self._finish(event)
        elif self._telling is None:
            self._ids.extend(getattr(event, "token_ids", ()))
            self._emit(event)
        else:
            self._tell(event)

    def fail(self, error: PenstockError) -> None:
        """As `Sink.fail`: moves on, if it may."""
        if not self._may_move(error):
            self._sink.fail(error)
            return
        self._moves += 1
        if self._telling is not None:
            self._retelling = Retelling(self._telling)
        self._migration.move(self, error)

    def rest(self) -> GenerateRequest:
        """What is to be asked of the next instance."""
        assert self._started is not None  # Nothing else moves.
        ids = list(self._ids) if self._telling is None else []
        resume = Resume(token_ids=ids, vocabulary=self._started.vocabulary)
        # Whoever was named is the one that was lost.
        return self._request.model_copy(update={"resume": resume, "instance": None})

    def ends_early(self) -> bool:
        """Ends the stream if its caller has cancelled it meanwhile; whether it did."""
        if self.context.is_killed:
            self._sink.fail(Cancelled(f"The request {self.context.id} was cancelled."))
            return True
        if self.context.is_stopped:
            prompt_tokens = (self._started and self._started.prompt_tokens) or 0
            usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=self._tokens())
            reason: FinishReason = "cancelled"
            self._emit(Finished((reason,) * self._request.sampling.n, usage, self._migration.name))
            return True
        return False

    def give_up(self, lost: PenstockError, refusal: PenstockError) -> None:
        """Fails the stream: nobody goes on with it."""
        message = f"{lost.message} The answer could not be continued elsewhere: {refusal.message}"
        self._sink.fail(InstanceLost(message, instance=lost.instance, retry_after_s=refusal.retry_after_s))

    def _may_move(self, error: PenstockError) -> bool:
        if not isinstance(error, StreamBroken | EngineDead | Timeout) or self.context.is_killed:
            return False
        if isinstance(error, Timeout) and error.phase == "total":
            return False
        if self._started is None or self._moves >= self._limit:
            return False
        # By its ids, or told again by an engine that says the same.
        return self._telling is None or self._telling.is_empty or _is_greedy(self._request.sampling)

    def _tell(self, event: Delta) -> None:
        assert self._telling is not None
        if self._retelling is not None:
            try:
                new = self._retelling.new_part(event)
            except Diverged as error:
                self._diverge(error)
                return
            if new is None:
                return
            event = new
        self._telling.add(event)
        self._emit(event)

    def _finish(self, event: Finished) -> None:
        if self._retelling is not None and not self._retelling.is_over:
            self._diverge(Diverged("it ended before what was said before."))
            return
        usage = event.usage
        if self._moves and usage.completion_tokens < self._tokens():
            # Stopped on its way to the next instance, by somebody who knows nothing of the first.
            event = replace(event, usage=replace(usage, completion_tokens=self._tokens()))
        self._emit(event)

    def _diverge(self, error: Diverged) -> None:
        self._sink.fail(InstanceLost(f"The answer could not be told again on another instance: {error}"))
        # Its engine goes on until it hears of the kill.
        self._sink = nobody = _Nobody()
        self._emit = nobody.emit
        self.context.kill()

    def _tokens(self) -> int:
        return len(self._ids) if self._telling is None else self._telling.tokens


class _Nobody:
    """The sink of a stream that has ended for its caller, and not yet for its engine."""

    def emit(self, event: Event) -> None:
        """Nobody listens."""

    def fail(self, error: PenstockError) -> None:
        """Nobody listens."""


def _is_resumable(request: GenerateRequest) -> bool:
    """Whether token ids are enough to go on from: they are not for several choices, nor for a grammar's state."""
    sampling = request.sampling
    forced = request.tool_choice == "required" or isinstance(request.tool_choice, NamedToolChoice)
    if sampling.n > 1 or sampling.guided is not None or forced:
        return False
    # These count what was generated, and an engine that goes on takes it for prompt. Told again, greedily, it is exact.
    penalized = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
    return not (penalized and _is_greedy(sampling))


def _is_greedy(sampling: Sampling) -> bool:
    return sampling.temperature == 0 or sampling.top_k == 1
