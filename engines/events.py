"""What a stream says: small frozen values, one per piece of an answer.

A stream is `Started`, then any number of deltas, then one `Finished`. Every event that carries output names its choice
(`index`) and, where the engine knows them, the token ids it came from: for each choice, the ids of its events, one
after another, are the ids generated so far. A token that says nothing yet (half a character, the start of a stop
string) travels with the next event of its choice. That is what makes a stream resumable.

Pickling an event costs one call of its class: `__reduce__` passes the fields by position.
"""

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled"]


class Value:
    """Pickles a slotted dataclass as a call of its class, which is several times cheaper than its state."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), _getter(type(self))(self)


_getters: dict[type, Any] = {}


def _getter(cls: type) -> Any:
    getter = _getters.get(cls)
    if getter is None:
        names = [field.name for field in fields(cls)]
        single = attrgetter(names[0])
        getter = attrgetter(*names) if len(names) > 1 else lambda value: (single(value),)
        _getters[cls] = getter
    return getter


class Terminal:
    """Marks the event that ends a stream; each kind of stream has one."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob(Value):
    """Log probability of one token.

    Attributes:
        token: Its text; may be an incomplete character (see `utf8`).
        token_id: Its id; -1 where a remote server does not tell it.
        logprob: Natural logarithm of its probability.
        utf8: Its bytes.
        top: The most likely tokens at this position, best first; empty inside `top` itself.
    """

    token: str
    token_id: int
    logprob: float
    utf8: bytes
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class Usage(Value):
    """Tokens of one request, over all its choices.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, special ones included.
        cached_tokens: Tokens of the prompt that came from the prefix cache.
        reasoning_tokens: Tokens generated inside reasoning.
        cache_write_tokens: Tokens of the prompt that were put into a provider's prefix cache, where it bills them.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """The tokens of two requests together."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )


@dataclass(frozen=True, slots=True)
class Started(Value):
    """The engine took the request. Always the first event.

    Attributes:
        engine: Name of the engine (of the instance, in a fleet) that answers.
        model: Name of the model.
        prompt_tokens: Tokens of the prompt, or None when the engine does not know yet.
        vocabulary: The same for engines whose token ids mean the same; empty where that is not known.
        resumable: Whether an engine of its kind can go on from the stream's ids (`Resume`): its events tell them all.
    """

    engine: str
    model: str
    prompt_tokens: int | None = None
    vocabulary: str = ""
    resumable: bool = False


@dataclass(frozen=True, slots=True)
class TextDelta(Value):
    """A piece of the answer's text."""

    text: str
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReasoningDelta(Value):
    """A piece of the model's reasoning, which is not part of the answer."""

    text: str
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class RedactedReasoning(Value):
    """Reasoning that the provider shows only to itself; opaque, to be sent back with the next turn.

    Attributes:
        data: The provider's own encrypted text.
    """

    data: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallStarted(Value):
    """A tool call begins.

    Attributes:
        call: Position of the call among the calls of its choice, from 0.
        id: Id of the call, which the tool's answer names.
        name: Name of the tool.
    """

    call: int
    id: str
    name: str
    index: int = 0
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallArgumentsDelta(Value):
    """A piece of a tool call's arguments: all the pieces together are one JSON text."""

    call: int
    arguments: str
    index: int = 0
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallFinished(Value):
    """A tool call is complete: its arguments can be read."""

    call: int
    index: int = 0
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished(Value, Terminal):
    """The terminal event: the stream ended as it should.

    Attributes:
        reasons: Why each choice ended, by index.
        usage: Tokens of the whole request.
        engine: Name of the engine that answered.
        stop_reasons: For each choice the stop string or stop token id that ended it, else None; may be empty.
    """

    reasons: tuple[FinishReason, ...]
    usage: Usage
    engine: str
    stop_reasons: tuple[int | str | None, ...] = ()

    @classmethod
    def cancelled(cls, choices: int, engine: str, usage: Usage | None = None) -> "Finished":
        """The end of a stream that its caller stopped, before any of its choices ended by itself."""
        reason: FinishReason = "cancelled"
        return cls((reason,) * choices, usage if usage is not None else Usage(), engine)

    @property
    def reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.reasons[0]


Delta = TextDelta | ReasoningDelta | RedactedReasoning | ToolCallStarted | ToolCallArgumentsDelta | ToolCallFinished
Event = Started | Delta | Finished
