"""Migration: a stream outlives the engine that carries it.

When an instance is lost in the middle of an answer, the request is submitted again with the token ids generated so
far. The next instance feeds them silently through its own detokenizer, stop strings and parsers and goes on with the
budget that is left, so the caller reads on: no token lost, none repeated.

Where the engine does not know the ids (`Started.resumable`), the request starts over instead: freely when nothing was
said yet; and when it decodes greedily, what is said again is checked against what was said, and left out. Any other
fails clearly.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import Field

from engines.context import Context
from engines.errors import (
    EngineDead,
    EngineFailed,
    EngineFault,
    InstanceLost,
    LossCause,
    PenstockError,
    StreamBroken,
    Timeout,
    loss_cause,
)
from engines.events import Event, Finished, Started, TextDelta, Usage
from engines.operators.operator import OperatorOptions, Transparent
from engines.operators.replay import Diverged, Replay, Said
from engines.requests import GenerateRequest, Resume, Sampling
from engines.sink import Sink

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


MoveOutcome = Literal["continued", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Move:
    """What became of a stream that broke.

    Attributes:
        outcome: Another instance went on with it, none could, or its caller gave up.
        pause_s: Seconds from the break to that.
        cause: Why it broke.
    """

    outcome: MoveOutcome
    pause_s: float
    cause: LossCause = "other"


class MigrationOptions(OperatorOptions):
    """How a stream goes on when the instance that carries it is lost.

    Attributes:
        limit: How often one stream is moved before it fails; 0: never. A move to an instance from which nothing came
            does not count: it was about to be lost, too.
        wait_s: Seconds that a broken stream waits for an instance from which anything comes.
    """

    limit: int = Field(3, ge=0, le=1000)
    wait_s: float = Field(30.0, ge=0)


class Migration(Transparent):
    """Continues broken streams, on what it is around: a route, which picks another instance each time.

    Reports a `Move` for each break, once it is known what became of the stream.

    Args:
        options: How often, and for how long it tries.

    Attributes:
        options: As given.
    """

    def __init__(self, options: MigrationOptions | None = None) -> None:
        self.options = options or MigrationOptions()
        self._moves: set[asyncio.Task[None]] = set()

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink. A setup error is the caller's: nothing was said, and the router tried what there is."""
        if not self.options.limit:
            await self.inner.submit(request, context, sink)
            return
        stream = _MovableStream(self, request, context, sink)
        try:
            await self.inner.submit(request, context, stream)
        except BaseException:
            stream.end()
            raise

    def move(self, stream: "_MovableStream", lost: PenstockError) -> None:
        """Submits a broken stream again, in the background."""
        task = asyncio.get_running_loop().create_task(self._move(stream, lost))
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _move(self, stream: "_MovableStream", lost: PenstockError) -> None:
        began_s = time.monotonic()
        deadline_s = min(stream.broke_s + self.options.wait_s, stream.context.deadline_s)
        outcome = await self._find_another(stream, lost, deadline_s)
        self.report(Move(outcome, time.monotonic() - began_s, loss_cause(lost)))

    async def _find_another(self, stream: "_MovableStream", lost: PenstockError, deadline_s: float) -> MoveOutcome:
        pause_s = _FIRST_PAUSE_S
        while not stream.ends_early():
            try:
                await self.inner.submit(stream.rest(), stream.context, stream)
                stream.context.note_move()
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
            await stream.context.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return "cancelled"


class _MovableStream:
    """One answer, carried by one instance after another: the sink of each, in front of the caller's.

    Attributes:
        broke_s: When it last stood still: at a break before which something had come, on the monotonic clock.
        context: The request's.
        emit: As `Sink.emit`: `_begin`, and once the stream has started its course's own.
    """

    __slots__ = (
        "_course",
        "_migration",
        "_moves",
        "_request",
        "_sink",
        "_started",
        "_tokens_at_break",
        "broke_s",
        "context",
        "emit",
    )

    def __init__(self, migration: Migration, request: GenerateRequest, context: Context, sink: Sink) -> None:
        self.context = context
        self._migration = migration
        self._request = request
        self._sink = sink
        self._moves = 0
        self._tokens_at_break = -1
        self.broke_s = 0.0
        self._started: Started | None = None
        self._course: _Course | None = None
        self.emit: Callable[[Event], None] = self._begin

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream here: it moves on, if it may."""
        if not self._can_be_moved(error) or self._course is None:
            self.end().fail(error)
            return
        if self.ends_early():
            return
        tokens = self._course.tokens
        if tokens != self._tokens_at_break or not self._course.counts_tokens:
            if self._moves >= self._migration.options.limit:
                self.end().fail(error)
                return
            self._moves += 1
            self._tokens_at_break = tokens
            self.broke_s = time.monotonic()
        elif time.monotonic() - self.broke_s > self._migration.options.wait_s:
            self.end().fail(error)
            return
        self._course.broke()
        self._migration.move(self, error)

    def rest(self) -> GenerateRequest:
        """What is to be asked of the next instance."""
        assert self._started is not None and self._course is not None  # Nothing else moves.
        resume = Resume.model_construct(choices=self._course.generated(), vocabulary=self._started.vocabulary)
        # Whoever was named is the one that was lost.
        return self._request.model_copy(update={"resume": resume, "instance": None})

    def ends_early(self) -> bool:
        """Ends the stream if its caller has cancelled it meanwhile; whether it did."""
        if self.context.is_killed:
            self.end().fail(self.context.cancellation())
            return True
        if self.context.is_stopped:
            prompt_tokens = (self._started and self._started.prompt_tokens) or 0
            usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=self._tokens())
            self.end().emit(Finished.cancelled(self._request.sampling.n, self._migration.name, usage))
            return True
        return False

    def give_up(self, lost: PenstockError, refusal: PenstockError) -> None:
        """Fails the stream: nobody goes on with it."""
        if isinstance(refusal, EngineFault):
            # It is not that nobody can: nobody must.
            self.end().fail(refusal)
            return
        self.end().fail(InstanceLost.given_up(lost, "The answer could not be continued elsewhere", refusal))

    def finish(self, event: Finished) -> None:
        """Emits the terminal event of an instance."""
        if self._moves and self._started is not None:
            # It may have been stopped on its way to the next instance, by somebody who knows nothing of the first.
            usage = replace(
                event.usage,
                prompt_tokens=max(event.usage.prompt_tokens, self._started.prompt_tokens or 0),
                completion_tokens=max(event.usage.completion_tokens, self._tokens()),
            )
            event = replace(event, usage=usage)
        self.end().emit(event)

    def diverge(self, error: Diverged) -> None:
        """Fails the stream: another instance says something else."""
        self.end().fail(InstanceLost(f"The answer could not be repeated on another instance: {error}"))
        # Its engine goes on until it hears of the kill.
        self.context.kill()

    def end(self) -> Sink:
        """Hears nothing more, and returns the caller's sink, for the last that it hears. Idempotent."""
        sink, self._sink = self._sink, _CLOSED
        # Both know the stream: a large request must not wait for the garbage collector.
        self._course = None
        self.emit = _CLOSED.emit
        return sink

    def _begin(self, event: Event) -> None:
        """The first event; an engine that has kept this method hands it the others, too."""
        if self._started is not None:
            self.emit(event)
            return
        assert isinstance(event, Started)
        self._started = event
        if event.resumable:
            self._course = _FromIds(self, self._request, self._sink)
        else:
            self._course = _Replayed(self, self._request, self._sink)
        self.emit = self._course.emit
        self._sink.emit(event)

    def _can_be_moved(self, error: PenstockError) -> bool:
        """Whether the error says that the stream may go on elsewhere, and the stream can."""
        if not isinstance(error, StreamBroken | EngineDead | Timeout):
            return False
        if isinstance(error, Timeout) and error.phase == "total":
            return False
        return self._course is not None and self._course.can_move

    def _tokens(self) -> int:
        return self._course.tokens if self._course is not None else 0


class _Course(ABC):
    """How a stream goes on elsewhere: keeps what that takes, and passes the events on.

    Attributes:
        can_move: Whether it can, as far as it has come.
        counts_tokens: Whether all that comes has ids.
        tokens: Ids that came, over all choices.
    """

    __slots__ = ()

    can_move: bool
    counts_tokens: ClassVar[bool]
    tokens: int

    @abstractmethod
    def emit(self, event: Event) -> None:
        """Takes an event of the stream's instance, whichever it is."""

    @abstractmethod
    def broke(self) -> None:
        """The instance was lost; the next event is another one's."""

    @abstractmethod
    def generated(self) -> list[list[int]]:
        """Of each choice, the ids that the next instance goes on from; nothing: it starts over."""


class _FromIds(_Course):
    """Goes on from the ids of each choice."""

    __slots__ = ("_emit", "_ids", "_stream")

    counts_tokens = True

    def __init__(self, stream: _MovableStream, request: GenerateRequest, sink: Sink) -> None:
        self._stream = stream
        self._emit = sink.emit
        # Four bytes each: a thousand long answers are kept at a time.
        self._ids = [array("i", token_ids) for token_ids in request.generated]

    @property
    def can_move(self) -> bool:  # type: ignore[override]
        """Always."""
        return True

    @property
    def tokens(self) -> int:  # type: ignore[override]
        """Ids that came, over all choices."""
        return sum(map(len, self._ids))

    def emit(self, event: Event) -> None:
        """Takes an event of the stream's instance, whichever it is."""
        if type(event) is TextDelta:
            self._ids[event.index].extend(event.token_ids)
            self._emit(event)
        elif isinstance(event, Finished):
            self._stream.finish(event)
        elif not isinstance(event, Started):
            self._ids[event.index].extend(getattr(event, "token_ids", ()))
            self._emit(event)

    def broke(self) -> None:
        """The instance was lost; the next event is another one's."""

    def generated(self) -> list[list[int]]:
        """Of each choice, the ids that the next instance goes on from; nothing: it starts over."""
        return [ids.tolist() for ids in self._ids] if any(self._ids) else []


class _Replayed(_Course):
    """Starts over, and leaves out what was said before."""

    __slots__ = ("_emit", "_replay", "_said", "_sampling", "_stream")

    counts_tokens = False

    def __init__(self, stream: _MovableStream, request: GenerateRequest, sink: Sink) -> None:
        self._stream = stream
        self._sampling = request.sampling
        self._emit = sink.emit
        self._said = Said()
        self._replay = Replay(self._said)

    @property
    def can_move(self) -> bool:  # type: ignore[override]
        """Where nothing was said, or the same will be."""
        return self._said.is_empty or is_greedy(self._sampling)

    @property
    def tokens(self) -> int:  # type: ignore[override]
        """Ids that came, over all choices."""
        return self._said.tokens

    def emit(self, event: Event) -> None:
        """Takes an event of the stream's instance, whichever it is."""
        if isinstance(event, Started):
            return
        try:
            if isinstance(event, Finished):
                if not self._replay.is_over:
                    raise Diverged("it ended before what was said before.")
                self._stream.finish(event)
                return
            new = self._replay.new_part(event)
        except Diverged as error:
            self._stream.diverge(error)
            return
        if new is not None:
            self._said.add(new)
            self._emit(new)

    def broke(self) -> None:
        """The instance was lost; the next event is another one's."""
        self._replay = Replay(self._said)

    def generated(self) -> list[list[int]]:
        """Of each choice, the ids that the next instance goes on from; nothing: it starts over."""
        return []


class _ClosedSink:
    """The sink of a stream that has ended for its caller, and not yet for its engine."""

    def emit(self, event: Event) -> None:
        """Drops it."""

    def fail(self, error: PenstockError) -> None:
        """Drops it."""


_CLOSED = _ClosedSink()


def is_greedy(sampling: Sampling) -> bool:
    """Whether the same is said again where a request starts over."""
    return sampling.temperature == 0 or sampling.top_k == 1
