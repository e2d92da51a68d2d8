"""Batches of an engine's events, as the database has them: a line of JSON each.

With the events goes what was encrypted as they were told, since nobody could encrypt it to the same text again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from engines.events import (
    Delta,
    ReasoningDelta,
    RedactedReasoning,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)

Told = Started | Delta
"""An event of a batch: every one but the last of a stream."""

_KINDS: dict[str, type[Told]] = {
    "started": Started,
    "text": TextDelta,
    "reasoning": ReasoningDelta,
    "redacted": RedactedReasoning,
    "call": ToolCallStarted,
    "arguments": ToolCallArgumentsDelta,
    "called": ToolCallFinished,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_FIELDS = {kind: [field.name for field in fields(kind)] for kind in _NAMES}


@dataclass(frozen=True, slots=True)
class Batch:
    """Some events, one after another.

    Attributes:
        events: The events.
        sealed: What was encrypted as they were told, in that order.
    """

    events: Sequence[Told]
    sealed: Sequence[str] = ()

    @property
    def text(self) -> str:
        """The batch, as JSON text of ASCII."""
        return json.dumps([[_written(event) for event in self.events], self.sealed], separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> "Batch":
        """The batch of a text."""
        events, sealed = json.loads(text)
        return cls([_read(event) for event in events], sealed)


def joined(events: Sequence[Told]) -> list[Told]:
    """The same in as few events as say it: pieces of one text that come one after another are one piece."""
    made: list[Told] = []
    for event in events:
        last = made[-1] if made else None
        both = None if last is None else _joined(last, event)
        if both is None:
            made.append(event)
        else:
            made[-1] = both
    return made


def _joined(one: Told, other: Told) -> Told | None:
    match one, other:
        case (TextDelta(), TextDelta()) if one.logprobs is None and other.logprobs is None:
            return replace(one, text=one.text + other.text, token_ids=one.token_ids + other.token_ids)
        case ReasoningDelta(), ReasoningDelta():
            return replace(one, text=one.text + other.text, token_ids=one.token_ids + other.token_ids)
        case (ToolCallArgumentsDelta(), ToolCallArgumentsDelta()) if one.call == other.call:
            return replace(one, arguments=one.arguments + other.arguments, token_ids=one.token_ids + other.token_ids)
    return None


def _written(event: Told) -> list[Any]:
    kind = type(event)
    return [_NAMES[kind], *(_plain(getattr(event, name)) for name in _FIELDS[kind])]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, TokenLogprob):
        return [value.token, value.token_id, value.logprob, value.utf8.hex(), _plain(value.top)]
    return value


def _read(event: Sequence[Any]) -> Told:
    name, *values = event
    kind = _KINDS[name]
    # A later version may have more fields, with defaults for those of an earlier one.
    given = dict(zip(_FIELDS[kind], values, strict=False))
    if "token_ids" in given:
        given["token_ids"] = tuple(given["token_ids"])
    if given.get("logprobs") is not None:
        given["logprobs"] = tuple(map(_logprob, given["logprobs"]))
    return kind(**given)


def _logprob(values: Sequence[Any]) -> TokenLogprob:
    token, token_id, logprob, utf8, top = values
    return TokenLogprob(token, token_id, logprob, bytes.fromhex(utf8), tuple(map(_logprob, top)))
