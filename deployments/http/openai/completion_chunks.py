"""Chunks of a streamed text completion."""

import json
from json.encoder import encode_basestring_ascii as quoted

from deployments.http.openai.logprobs import completion_logprobs
from deployments.http.openai.stream_format import CompletionChoice, CompletionStream
from deployments.http.server.stream_format import Extras
from engines.events import FinishReason, Usage


class CompletionChunks(CompletionChoice):
    """The chunks of one choice of a text completion.

    This API knows text only: reasoning is text to it, and tool calls do not occur, because they need a conversation.

    Args:
        stream: What all chunks of the answer have in common.
        index: The choice's index in the answer.
        echo: The prompt, where it is to be repeated.
    """

    __slots__ = ("_echo", "_offset", "_text")

    def __init__(self, stream: CompletionStream, index: int, echo: str = "") -> None:
        super().__init__(stream, index)
        self._text = f'{self._head}"text":'
        self._echo = echo
        self._offset = len(echo)

    def opening(self) -> str:
        """The prompt, where it is to be repeated."""
        return self.text(self._echo) if self._echo else ""

    def text(self, text: str) -> str:
        """A chunk of text."""
        return f"{self._text}{quoted(text)}{self._tail}"

    def reasoning(self, text: str) -> str:
        """A chunk of text."""
        return self.text(text)

    def redacted_reasoning(self, data: str) -> str:
        """Nothing: it is not text."""
        return ""

    def tool_call(self, call: int, id: str, name: str) -> str:
        """Nothing."""
        return ""

    def tool_arguments(self, call: int, arguments: str) -> str:
        """Nothing."""
        return ""

    def finish(self, reason: FinishReason, stop_reason: int | str | None, usage: Usage | None) -> str:
        """The chunk that ends the choice."""
        end = f'"logprobs":null,"finish_reason":"{reason}","stop_reason":{json.dumps(stop_reason)}}}'
        return f'{self._text}"",{end}{self._stream.tail(usage)}'

    def with_extras(self, chunk: str, extras: Extras) -> str:
        """A chunk with log probabilities, token ids or usage."""
        logprobs = "null"
        if extras.logprobs is not None:
            logprobs = json.dumps(completion_logprobs(extras.logprobs, self._offset))
            self._offset += sum(len(token.token) for token in extras.logprobs)
        return self._extended(chunk, extras, logprobs)
