"""Chunks of a streamed chat completion."""

import json
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted

from deployments.http.openai.logprobs import chat_logprobs
from deployments.http.openai.stream_format import CompletionChoice, CompletionStream
from deployments.http.server.stream_format import Extras
from engines.events import FinishReason, Usage


class ChatChunks(CompletionChoice):
    """The chunks of one choice of a chat completion.

    Args:
        stream: What all chunks of the answer have in common.
        index: The choice's index in the answer.
        finish_reason: What to call the reason for which it ended.
    """

    __slots__ = ("_delta", "_end", "_finish_reason", "_text")

    def __init__(
        self,
        stream: CompletionStream,
        index: int,
        finish_reason: Callable[[FinishReason], FinishReason] = lambda reason: reason,
    ) -> None:
        super().__init__(stream, index)
        self._finish_reason = finish_reason
        self._delta = f'{self._head}"delta":{{'
        self._text = f'{self._delta}"content":'
        self._end = f"}}{self._tail}"

    def opening(self) -> str:
        """The chunk that says who speaks."""
        return f'{self._delta}"role":"assistant","content":""{self._end}'

    def text(self, text: str) -> str:
        """A chunk of text."""
        return f"{self._text}{quoted(text)}{self._end}"

    def reasoning(self, text: str) -> str:
        """A chunk of reasoning, under both of the names that clients know."""
        piece = quoted(text)
        return f'{self._delta}"reasoning_content":{piece},"reasoning":{piece}{self._end}'

    def redacted_reasoning(self, data: str) -> str:
        """A chunk of opaque reasoning: OpenAI's API has no word for it."""
        return f'{self._delta}"redacted_reasoning":{quoted(data)}{self._end}'

    def tool_call(self, call: int, id: str, name: str) -> str:
        """The chunk that starts a tool call."""
        function = f'{{"name":{quoted(name)},"arguments":""}}'
        started = f'{{"index":{call},"id":{quoted(id)},"type":"function","function":{function}}}'
        return f'{self._delta}"tool_calls":[{started}]{self._end}'

    def tool_arguments(self, call: int, arguments: str) -> str:
        """A chunk of a tool call's arguments."""
        piece = f'{{"index":{call},"function":{{"arguments":{quoted(arguments)}}}}}'
        return f'{self._delta}"tool_calls":[{piece}]{self._end}'

    def finish(self, reason: FinishReason, stop_reason: int | str | None, usage: Usage | None) -> str:
        """The chunk that ends the choice."""
        called = self._finish_reason(reason)
        end = f'"logprobs":null,"finish_reason":"{called}","stop_reason":{json.dumps(stop_reason)}}}'
        return f"{self._delta}}},{end}{self._stream.tail(usage)}"

    def with_extras(self, chunk: str, extras: Extras) -> str:
        """A chunk with log probabilities, token ids or usage."""
        logprobs = "null" if extras.logprobs is None else json.dumps(chat_logprobs(extras.logprobs))
        return self._extended(chunk, extras, logprobs)
