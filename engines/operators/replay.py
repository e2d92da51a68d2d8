"""Verified replay: an answer that begins anew is compared with what was said before, and only what is new passes.

For streams of engines that do not know, or do not tell, the ids of their tokens.
"""

from collections import deque
from dataclasses import replace
from typing import Any

from engines.events import (
    Delta,
    ReasoningDelta,
    RedactedReasoning,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)

_Kind = tuple[type, int | str]
"""A kind of event, with what must be the same for two of them to say the same: the call, the tool's name."""


class Diverged(Exception):
    """The second answer says something else than the first."""


class Said:
    """What was said of each choice: runs of text of one kind, and the marks between them.

    Attributes:
        tokens: Ids that came with it.
    """

    __slots__ = ("logprobs", "runs", "token_ids", "tokens")

    def __init__(self) -> None:
        self.runs: dict[int, list[tuple[_Kind, list[str]]]] = {}
        self.token_ids: dict[int, int] = {}
        self.logprobs: dict[int, int] = {}
        self.tokens = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said yet."""
        return not any(self.runs.values())

    def add(self, event: Delta) -> None:
        """Notes what an event says."""
        index = event.index
        runs = self.runs.setdefault(index, [])
        kind, text = _read(event)
        if text is None:
            runs.append((kind, []))
        elif text and runs and runs[-1][0] == kind:
            runs[-1][1].append(text)
        elif text:
            runs.append((kind, [text]))
        ids = len(getattr(event, "token_ids", ()))
        self.tokens += ids
        self.token_ids[index] = self.token_ids.get(index, 0) + ids
        self.logprobs[index] = self.logprobs.get(index, 0) + len(getattr(event, "logprobs", None) or ())


class Replay:
    """Compares a second answer with what was said.

    Args:
        said: What was said; it may grow meanwhile by what is new.
    """

    __slots__ = ("_ids", "_logprobs", "_runs")

    def __init__(self, said: Said) -> None:
        self._runs = {
            index: deque((kind, "".join(pieces)) for kind, pieces in runs) for index, runs in said.runs.items()
        }
        self._ids = dict(said.token_ids)
        self._logprobs = dict(said.logprobs)

    @property
    def is_over(self) -> bool:
        """Whether everything was said again."""
        return not any(self._runs.values())

    def new_part(self, event: Delta) -> Delta | None:
        """What an event says that was not said before, or None.

        Raises:
            Diverged: It says something else than was said.
        """
        runs = self._runs.get(event.index)
        if not runs and not self._ids.get(event.index):
            return event
        kind, text = _read(event)
        rest = self._skip(event)
        if text is None:
            if not runs:
                return rest
            if runs.popleft()[0] != kind:
                raise Diverged("it calls another tool, or at another place.")
            return None
        if runs:
            text = self._new_text(runs, kind, text)
        ids = () if isinstance(rest, RedactedReasoning) else rest.token_ids
        return _with_text(rest, text) if text or ids else None

    def _new_text(self, runs: deque[tuple[_Kind, str]], kind: _Kind, text: str) -> str:
        while text and runs:
            expected, before = runs[0]
            length = min(len(text), len(before))
            if expected != kind or text[:length] != before[:length]:
                raise Diverged("its words differ.")
            text = text[length:]
            if length < len(before):
                runs[0] = (expected, before[length:])
                continue
            runs.popleft()
            if text and runs:
                # Runs end where another kind begins.
                raise Diverged("it goes on where it turned before.")
        return text

    def _skip(self, event: Delta) -> Delta:
        """The event without the ids and log probabilities that came before."""
        index = event.index
        changes: dict[str, Any] = {}
        for name, counts in (("token_ids", self._ids), ("logprobs", self._logprobs)):
            values = getattr(event, name, None)
            if values:
                skipped = min(len(values), counts.get(index, 0))
                counts[index] = counts.get(index, 0) - skipped
                changes[name] = values[skipped:]
        return replace(event, **changes) if changes else event


def _read(event: Delta) -> tuple[_Kind, str | None]:
    match event:
        case TextDelta() | ReasoningDelta():
            return (type(event), 0), event.text
        case RedactedReasoning():
            return (RedactedReasoning, event.data), None
        case ToolCallStarted():
            return (ToolCallStarted, event.name), None
        case ToolCallArgumentsDelta():
            return (ToolCallArgumentsDelta, event.call), event.arguments
        case ToolCallFinished():
            return (ToolCallFinished, event.call), None


def _with_text(event: Delta, text: str) -> Delta:
    match event:
        case ToolCallArgumentsDelta():
            return replace(event, arguments=text)
        case TextDelta() | ReasoningDelta():
            return replace(event, text=text)
    return event
