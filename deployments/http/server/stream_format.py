"""How an API writes a streamed answer: what each API hands to `deployments.http.server.sse_stream`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from engines.errors import PenstockError
from engines.events import FinishReason, Started, TokenLogprob, Usage


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What a stream reports besides the answer.

    Attributes:
        usage: Ends with a chunk of usage.
        usage_so_far: Every chunk holds the usage so far.
        token_ids: Every chunk holds the token ids that it came from.
    """

    usage: bool = False
    usage_so_far: bool = False
    token_ids: bool = False


@dataclass(frozen=True, slots=True)
class Extras:
    """What one chunk holds besides a piece of the answer."""

    logprobs: Sequence[TokenLogprob] | None = None
    token_ids: Sequence[int] = ()
    usage: Usage | None = None


class StreamFormat(ABC):
    """The chunks of one answer that belong to none of its choices. All are ASCII text, whole server-sent events.

    Args:
        report: What is reported besides the answer.

    Attributes:
        keep_alive: What a stream says that was silent for a while: as it is here, a comment, which clients skip.
    """

    __slots__ = ("report",)

    keep_alive: ClassVar[str] = ": keep-alive\n\n"

    def __init__(self, report: StreamReport) -> None:
        self.report = report

    def beginning(self, started: Started) -> str:
        """What precedes all chunks, said as soon as one of the requests has started; empty: nothing does."""
        return ""

    async def before_end(self, usage: Usage, error: PenstockError | None) -> None:
        """Does what must be done before the end is told; everything else was said.

        Args:
            usage: What the answer cost, as far as that is known.
            error: What it broke off with, in which case nothing may be raised; None: it did not.

        Raises:
            PenstockError: The answer breaks off with it after all.
        """
        return

    @abstractmethod
    def ending(self, usage: Usage) -> str:
        """What follows the last chunk of an answer that ended well."""

    @abstractmethod
    def failure(self, error: PenstockError) -> str:
        """What follows the last chunk of an answer that broke off."""


class ChoiceFormat(ABC):
    """The chunks of one choice. All are ASCII text, whole server-sent events; an empty one is not sent.

    But for the opening they are asked for in the order in which they are sent: a format may remember what it has begun.
    """

    __slots__ = ()

    @abstractmethod
    def opening(self) -> str:
        """The chunk before the choice's first; empty when there is none."""

    @abstractmethod
    def text(self, text: str) -> str:
        """A chunk of text."""

    @abstractmethod
    def reasoning(self, text: str) -> str:
        """A chunk of reasoning."""

    @abstractmethod
    def redacted_reasoning(self, data: str) -> str:
        """A chunk of opaque reasoning."""

    @abstractmethod
    def tool_call(self, call: int, id: str, name: str) -> str:
        """The chunk that starts a tool call."""

    @abstractmethod
    def tool_arguments(self, call: int, arguments: str) -> str:
        """A chunk of a tool call's arguments."""

    def tool_end(self, call: int) -> str:
        """The chunk that ends a tool call; empty where the API has none."""
        return ""

    @abstractmethod
    def finish(self, reason: FinishReason, stop_reason: int | str | None, usage: Usage | None) -> str:
        """The chunk that ends the choice."""

    @abstractmethod
    def with_extras(self, chunk: str, extras: Extras) -> str:
        """One of the chunks above, with extras."""
