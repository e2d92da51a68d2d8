"""Recovery: a stream that breaks goes on, on engines that do not tell their token ids, by what was said already.

Nothing was said: the request starts over. Text was: the model goes on from it, as from the start of its own message.
A tool call was finished: the answer ends there, and the caller runs the tool. A tool call that was not finished was
never said: Recovery holds it back until it is whole, so that the step can start over.

Unlike Migration, the answer is not the one that an undisturbed run would have given: the model takes a second run-up.
So it is off unless a pipeline has it, and what it cannot do right it does not do: answers held to a schema or grammar
and several choices fail as they would without it once something was said.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from engines.context import Context
from engines.errors import EngineFailed, InstanceLost, PenstockError, Timeout
from engines.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    RedactedReasoning,
    Started,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from engines.messages import Message
from engines.operators.operator import OperatorOptions, Transparent
from engines.requests import GenerateRequest
from engines.sink import Sink

RecoveryOutcome = Literal["restarted", "continued", "ended_as_tool_call", "failed"]


class RecoveryOptions(OperatorOptions):
    """How often a stream is recovered, and when it counts as broken.

    Attributes:
        limit: How often one stream is recovered before it fails.
        idle_s: Seconds without an event after which a stream that has begun counts as broken; twice as long while the
            model reasons. None: only an error breaks it.
    """

    limit: int = Field(2, ge=0, le=100)
    idle_s: float | None = Field(60.0, gt=0)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of a stream that broke.

    Attributes:
        outcome: What was done, or that nothing could be.
    """

    outcome: RecoveryOutcome


class Recovery(Transparent):
    """Goes on with broken streams by what was said. Reports `Recovered` for each break.

    Args:
        options: How often, and when a stream counts as broken.
    """

    def __init__(self, options: RecoveryOptions | None = None) -> None:
        self.options = options or RecoveryOptions()
        self._runs: set[asyncio.Task[None]] = set()

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink. A setup error is the caller's: nothing was said, and trying again is Retry's."""
        if request.sampling.n > 1:
            await self.inner.submit(request, context, sink)
            return
        stream = _RecoverableStream(self, request, context, sink)
        try:
            await stream.run(request)
        except BaseException:
            stream.end()
            raise

    def run_again(self, stream: "_RecoverableStream", request: GenerateRequest, lost: PenstockError) -> None:
        """Submits what is left of a broken stream, in the background."""
        task = asyncio.get_running_loop().create_task(self._run_again(stream, request, lost))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)

    async def _run_again(self, stream: "_RecoverableStream", request: GenerateRequest, lost: PenstockError) -> None:
        try:
            await stream.run(request)
        except PenstockError as error:
            stream.give_up(lost, error)
        except Exception as error:  # noqa: BLE001 - the caller waits: it must hear of a bug, too
            stream.give_up(lost, EngineFailed(f"{type(error).__name__}: {error}"))


class _RecoverableStream:
    """One answer, of one run after another: in front of the caller's sink."""

    def __init__(self, recovery: Recovery, request: GenerateRequest, context: Context, sink: Sink) -> None:
        self._recovery = recovery
        self._request = request
        self._context = context
        self._sink: Sink | None = sink
        self._run: _Run | None = None
        self._left = recovery.options.limit
        self._started: Started | None = None
        self._text: list[str] = []
        self._has_reasoned = False
        self._calls = 0
        self._tokens = 0

    async def run(self, request: GenerateRequest) -> None:
        """Submits a request whose answer is the rest of this one's. Raises its setup error."""
        self._run = _Run(self, self._context.child(), self._recovery.options.idle_s)
        await self._recovery.inner.submit(request, self._run.context, self._run)

    def take(self, event: Event) -> None:
        """Takes an event of the present run."""
        if self._sink is None:
            return
        if isinstance(event, Started):
            if self._started is None:
                self._started = event
                self._sink.emit(event)
            return
        if isinstance(event, Finished):
            self._finish(event)
            return
        self._tokens += len(getattr(event, "token_ids", ())) or 1
        if isinstance(event, TextDelta):
            self._text.append(event.text)
        elif isinstance(event, ToolCallFinished):
            self._calls += 1
        elif isinstance(event, ReasoningDelta | RedactedReasoning):
            if self._run is not None and self._run.hides_reasoning:
                return
            self._has_reasoned = True
        self._sink.emit(event)

    def broke(self, error: PenstockError) -> None:
        """The present run ended with an error: what can be done is done."""
        if self._sink is None:
            return
        may_recover = error.transient and not (isinstance(error, Timeout) and error.phase == "total")
        if not may_recover or self._left == 0 or self._context.is_stopped:
            self._fail(error)
        elif self._calls:
            self._recovery.report(Recovered("ended_as_tool_call"))
            self._finish(self._cut_short("tool_calls"), was_cut=True)
        elif not self._text:
            self._left -= 1
            self._recovery.report(Recovered("restarted"))
            self._recovery.run_again(self, self._request, error)
        elif self._request.sampling.guided is not None or self._request.prompt_token_ids is not None:
            self._fail(error)
        else:
            self._left -= 1
            self._go_on(error)

    def give_up(self, lost: PenstockError, refusal: PenstockError) -> None:
        """Fails the stream: nobody takes the rest of it."""
        if self._context.is_killed:
            self._fail(self._context.cancellation())
            return
        self._fail(InstanceLost.given_up(lost, "The answer could not be gone on with", refusal))

    def end(self) -> None:
        """Hears nothing more."""
        self._sink = None

    @property
    def has_reasoned(self) -> bool:
        """Whether the caller has heard reasoning."""
        return self._has_reasoned

    def _go_on(self, error: PenstockError) -> None:
        request, text = self._request, "".join(self._text)
        limit = request.sampling.max_tokens
        if limit is not None and self._tokens >= limit:
            self._finish(self._cut_short("length"), was_cut=True)
            return
        changes: dict[str, object] = {}
        if limit is not None:
            changes["sampling"] = request.sampling.model_copy(update={"max_tokens": limit - self._tokens})
        if request.prompt is not None:
            changes["prompt"] = request.prompt + text
        else:
            assert request.messages is not None  # one of the three is given, and ids were refused
            changes |= {"messages": _with_answer(request, text)}
            changes |= {"continue_final_message": True, "add_generation_prompt": False}
        self._context.note_move()
        self._recovery.report(Recovered("continued"))
        self._recovery.run_again(self, request.model_copy(update=changes), error)

    def _cut_short(self, reason: FinishReason) -> Finished:
        assert self._started is not None  # something was said
        return Finished((reason,), Usage(), self._started.engine)

    def _finish(self, event: Finished, *, was_cut: bool = False) -> None:
        sink, self._sink = self._sink, None
        assert sink is not None
        was_recovered = was_cut or self._left < self._recovery.options.limit
        if was_recovered:
            # Runs that broke did not say what they took; what they said is known.
            prompt_tokens = (self._started and self._started.prompt_tokens) or event.usage.prompt_tokens
            completion_tokens = max(self._tokens, event.usage.completion_tokens)
            usage = replace(event.usage, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
            event = replace(event, usage=usage)
        sink.emit(event)

    def _fail(self, error: PenstockError) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            if error.transient:
                self._recovery.report(Recovered("failed"))
            sink.fail(error)


class _Run:
    """One run of a stream: the sink of its engine. Holds tool calls back until they are whole.

    Attributes:
        context: The engine's, which is killed when the run is given up.
        hides_reasoning: Whether the caller has heard reasoning of an earlier run already.
    """

    __slots__ = ("_heard_s", "_held", "_idle_s", "_is_reasoning", "_stream", "_timer", "context", "hides_reasoning")

    def __init__(self, stream: _RecoverableStream, context: Context, idle_s: float | None) -> None:
        self.context = context
        self.hides_reasoning = stream.has_reasoned
        self._stream: _RecoverableStream | None = stream
        self._idle_s = idle_s
        self._is_reasoning = False
        self._held: dict[int, list[Event]] = {}
        self._heard_s = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        stream = self._stream
        if stream is None:
            return
        self._heard_s = time.monotonic()
        self._is_reasoning = isinstance(event, ReasoningDelta | RedactedReasoning)
        if isinstance(event, ToolCallStarted | ToolCallArgumentsDelta):
            self._held.setdefault(event.call, []).append(event)
        elif isinstance(event, ToolCallFinished):
            for held in self._held.pop(event.call, ()):
                stream.take(held)
            stream.take(event)
        else:
            if isinstance(event, Finished):
                self._end()
            elif isinstance(event, Started):
                self._watch()
            stream.take(event)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the run."""
        stream = self._stream
        if stream is not None:
            self._end()
            stream.broke(error)

    def _watch(self) -> None:
        if self._idle_s is not None:
            due_s = self._heard_s + self._limit_s(self._idle_s)
            self._timer = asyncio.get_running_loop().call_at(due_s, self._look)

    def _look(self) -> None:
        stream, idle_s = self._stream, self._idle_s
        if stream is None or idle_s is None:
            return
        if time.monotonic() < self._heard_s + self._limit_s(idle_s):
            self._watch()
            return
        self._end()
        self.context.kill()
        stream.broke(Timeout("between_tokens", self._limit_s(idle_s)))

    def _limit_s(self, idle_s: float) -> float:
        return 2 * idle_s if self._is_reasoning else idle_s

    def _end(self) -> None:
        self._stream = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _with_answer(request: GenerateRequest, text: str) -> list[Message]:
    """The conversation, with what was said of its answer as the start of the assistant's message."""
    messages = list(request.messages or ())
    if request.continue_final_message and messages and isinstance(messages[-1].content, str):
        messages[-1] = messages[-1].model_copy(update={"content": messages[-1].content + text})
        return messages
    return [*messages, Message(role="assistant", content=text)]
