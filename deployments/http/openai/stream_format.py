"""Chunks of a streamed answer: the part that both completion APIs share.

The constant part of a chunk is put together once per choice; a token adds its escaped text and nothing else. All chunks
are ASCII text, which costs nothing to encode.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted

from deployments.http.openai.usage import usage_body
from engines.events import FinishReason, TokenLogprob, Usage


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


NO_EXTRAS = Extras()


class StreamFormat:
    """What the chunks of one answer have in common.

    Args:
        id: Id of the answer.
        object: The API's word for a chunk.
        model: Name of the model, as the caller wrote it.
        created_s: Unix time of the request.
        report: What is reported besides the answer.
    """

    __slots__ = ("_tail", "_usage_tail", "head", "report")

    def __init__(self, id: str, object: str, model: str, created_s: int, report: StreamReport) -> None:
        self.report = report
        self.head = (
            f'data: {{"id":{quoted(id)},"object":"{object}","created":{created_s},"model":{quoted(model)},"choices":['
        )
        self._tail = '],"usage":null}\n\n' if report.usage else "]}\n\n"

    def tail(self, usage: Usage | None) -> str:
        """What follows the choices of a chunk."""
        if usage is None:
            return self._tail
        return f'],"usage":{json.dumps(usage_body(usage))}}}\n\n'


class ChoiceFormat(ABC):
    """The chunks of one choice.

    Args:
        stream: What all chunks of the answer have in common.
        index: The choice's index in the answer.
    """

    __slots__ = ("_head", "_stream", "_tail")

    def __init__(self, stream: StreamFormat, index: int) -> None:
        self._stream = stream
        self._head = f'{stream.head}{{"index":{index},'
        self._tail = f',"logprobs":null,"finish_reason":null}}{stream.tail(None)}'

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

    @abstractmethod
    def finish(self, reason: FinishReason, stop_reason: int | str | None, usage: Usage | None) -> str:
        """The chunk that ends the choice."""

    @abstractmethod
    def with_extras(self, chunk: str, extras: Extras) -> str:
        """One of the chunks above, with extras."""

    def _extended(self, chunk: str, extras: Extras, logprobs: str) -> str:
        token_ids = f',"token_ids":{json.dumps(list(extras.token_ids))}' if self._stream.report.token_ids else ""
        tail = f',"logprobs":{logprobs},"finish_reason":null{token_ids}}}{self._stream.tail(extras.usage)}'
        return chunk.removesuffix(self._tail) + tail
