"""One whole answer out of a stream of events."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from engines.errors import PenstockError, StreamIncomplete
from engines.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    RedactedReasoning,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)


@dataclass(frozen=True, slots=True)
class CompletedToolCall:
    """A whole tool call; `arguments` is JSON as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole choice.

    Attributes:
        text: The answer.
        reasoning: The model's reasoning; empty when there is none.
        redacted_reasoning: Opaque reasoning, to be sent back with the next turn.
        tool_calls: The calls that the model wants made.
        reason: Why it ended.
        stop_reason: The stop string or token id that ended it, or None.
        token_ids: Ids generated, where the engine knows them.
        logprobs: Log probabilities of the text's tokens, or None when they were not asked for.
    """

    text: str
    reasoning: str
    redacted_reasoning: tuple[str, ...]
    tool_calls: tuple[CompletedToolCall, ...]
    reason: FinishReason
    stop_reason: int | str | None
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer.

    Attributes:
        engine: Name of the engine that answered.
        model: Name of the model.
        choices: The choices, by index.
        usage: Tokens of the whole request.
    """

    engine: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage

    @property
    def text(self) -> str:
        """The first choice's answer."""
        return self.choices[0].text


class _Draft:
    """A choice under way."""

    __slots__ = ("calls", "logprobs", "reasoning", "redacted", "text", "token_ids")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.redacted: list[str] = []
        self.calls: dict[int, tuple[str, str, list[str]]] = {}
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] | None = None

    def add(self, event: Event) -> None:
        match event:
            case TextDelta():
                self.text.append(event.text)
                if event.logprobs is not None:
                    if self.logprobs is None:
                        self.logprobs = []
                    self.logprobs.extend(event.logprobs)
            case ReasoningDelta():
                self.reasoning.append(event.text)
            case RedactedReasoning():
                self.redacted.append(event.data)
                return
            case ToolCallStarted():
                self.calls[event.call] = (event.id, event.name, [])
            case ToolCallArgumentsDelta():
                self.calls[event.call][2].append(event.arguments)
            case ToolCallFinished():
                pass
            case _:
                return
        self.token_ids.extend(event.token_ids)

    def choice(self, reason: FinishReason, stop_reason: int | str | None) -> Choice:
        return Choice(
            text="".join(self.text),
            reasoning="".join(self.reasoning),
            redacted_reasoning=tuple(self.redacted),
            tool_calls=tuple(
                CompletedToolCall(id, name, "".join(pieces)) for _, (id, name, pieces) in sorted(self.calls.items())
            ),
            reason=reason,
            stop_reason=stop_reason,
            token_ids=tuple(self.token_ids),
            logprobs=None if self.logprobs is None else tuple(self.logprobs),
        )


class CompletionBuilder:
    """Adds events up to a Completion."""

    __slots__ = ("_drafts", "_started")

    def __init__(self) -> None:
        self._drafts: dict[int, _Draft] = {}
        self._started: Started | None = None

    def add(self, event: Event) -> Completion | None:
        """Takes the next event; returns the Completion when it was the last."""
        match event:
            case Started():
                self._started = event
            case Finished():
                return self._finish(event)
            case _:
                draft = self._drafts.get(event.index)
                if draft is None:
                    draft = self._drafts[event.index] = _Draft()
                draft.add(event)
        return None

    def _finish(self, event: Finished) -> Completion:
        stop_reasons = event.stop_reasons or (None,) * len(event.reasons)
        return Completion(
            engine=event.engine,
            model=self._started.model if self._started is not None else "",
            choices=tuple(
                self._drafts.get(index, _Draft()).choice(reason, stop_reason)
                for index, (reason, stop_reason) in enumerate(zip(event.reasons, stop_reasons, strict=True))
            ),
            usage=event.usage,
        )


class Collector:
    """A sink that gives one whole answer: `await collector.completion`."""

    __slots__ = ("_builder", "completion", "started")

    def __init__(self) -> None:
        self._builder = CompletionBuilder()
        self.started: Started | None = None
        self.completion: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        if isinstance(event, Started):
            self.started = event
        completion = self._builder.add(event)
        if completion is not None and not self.completion.done():
            self.completion.set_result(completion)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream; `await completion` raises it."""
        if not self.completion.done():
            self.completion.set_exception(error)


async def collect(events: AsyncIterator[Event]) -> Completion:
    """The whole answer of a pulled stream.

    Raises:
        PenstockError: The stream failed.
    """
    builder = CompletionBuilder()
    async for event in events:
        completion = builder.add(event)
        if completion is not None:
            return completion
    raise StreamIncomplete("The stream ended without Finished.")
