"""Events of a streamed message.

    message_start, ping
    content_block_start, content_block_delta ..., content_block_stop     for each block
    message_delta, message_stop

Blocks have numbers, in the order in which they begin. Text and thinking end where something else begins; a call ends
where its engine says so, and calls that an engine says at the same time are open at the same time. An error ends a
stream by an event of its own. The constant part of a delta is put together once per block.
"""

import json
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, ClassVar, Literal

from deployments.http.anthropic.error_body import error_json
from deployments.http.anthropic.stop_reason import Stop
from deployments.http.anthropic.thinking import Thought
from deployments.http.anthropic.usage import usage_body
from deployments.http.server.stream_format import ChoiceFormat, Extras, StreamFormat, StreamReport
from engines.errors import PenstockError
from engines.events import FinishReason, Started, Usage

_PING = 'event: ping\ndata: {"type":"ping"}\n\n'

StopOf = Callable[[FinishReason, int | str | None, Usage], Stop]


class MessageStream(StreamFormat):
    """The events of a message that belong to none of its blocks.

    Args:
        id: Id of the message.
        model: Name of the model, as the caller wrote it.
        stop_of: Why it ended, in Anthropic's words.
        request_id: Id of the request, which an error names.
    """

    __slots__ = ("_ended_by", "_id", "_model", "_request_id", "_stop_of")

    keep_alive: ClassVar[str] = _PING

    def __init__(self, id: str, model: str, stop_of: StopOf, *, request_id: str) -> None:
        super().__init__(StreamReport())
        self._id = id
        self._model = model
        self._stop_of = stop_of
        self._request_id = request_id
        self._ended_by: tuple[FinishReason, int | str | None] = ("stop", None)

    def beginning(self, started: Started) -> str:
        """The message as it is before anything was said."""
        message = assistant_message(
            self._id, self._model, [], None, usage_body(Usage(prompt_tokens=started.prompt_tokens or 0))
        )
        return _event("message_start", message=message) + _PING

    def end_by(self, reason: FinishReason, stop_reason: int | str | None) -> None:
        """Notes why the message ended."""
        self._ended_by = (reason, stop_reason)

    def ending(self, usage: Usage) -> str:
        """Why it ended, what it cost, and that it has ended."""
        stop = self._stop_of(*self._ended_by, usage)
        delta = {"stop_reason": stop.reason, "stop_sequence": stop.sequence}
        return _event("message_delta", delta=delta, usage=usage_body(usage)) + _event("message_stop")

    def failure(self, error: PenstockError) -> str:
        """The error, which ends the stream."""
        return f"event: error\ndata: {error_json(error, self._request_id)}\n\n"


class MessageBlocks(ChoiceFormat):
    """The events of a message's blocks.

    Args:
        stream: What belongs to none of them.
        thought: Makes the thinking of a new block.
    """

    __slots__ = ("_calls", "_delta", "_index", "_kind", "_stream", "_think", "_thought")

    def __init__(self, stream: MessageStream, thought: Callable[[], Thought]) -> None:
        self._stream = stream
        self._think = thought
        self._thought = thought()
        self._index = -1
        # Of the block of text or thinking that is open, and what its deltas begin with.
        self._kind: Literal["", "text", "thinking"] = ""
        self._delta = ""
        # The numbers of the blocks of calls that are open, and what their deltas begin with.
        self._calls: dict[int, tuple[int, str]] = {}

    def opening(self) -> str:
        """Nothing: the message has begun already."""
        return ""

    def text(self, text: str) -> str:
        """A piece of text."""
        if not text:
            return ""
        begun = ""
        if self._kind != "text":
            begun = self._close() + self._start({"type": "text", "text": ""})
            self._kind, self._delta = "text", _delta(self._index, "text_delta", "text")
        return f"{begun}{self._delta}{quoted(text)}}}}}\n\n"

    def reasoning(self, text: str) -> str:
        """A piece of thinking; where it is not shown, the block that it belongs to and no more."""
        begun = ""
        if self._kind != "thinking":
            begun = self._close() + self._start({"type": "thinking", "thinking": "", "signature": ""})
            self._kind, self._delta = "thinking", _delta(self._index, "thinking_delta", "thinking")
            self._thought = self._think()
        self._thought.add(text)
        return f"{begun}{self._delta}{quoted(text)}}}}}\n\n" if self._thought.shown else begun

    def redacted_reasoning(self, data: str) -> str:
        """A block of thinking that only its provider can read."""
        begun = self._close() + self._start({"type": "redacted_thinking", "data": data})
        return begun + _stop(self._index)

    def tool_call(self, call: int, id: str, name: str) -> str:
        """The beginning of a call."""
        begun = self._close() + self._start({"type": "tool_use", "id": id, "name": name, "input": {}})
        self._calls[call] = (self._index, _delta(self._index, "input_json_delta", "partial_json"))
        return begun

    def tool_arguments(self, call: int, arguments: str) -> str:
        """A piece of a call's arguments."""
        opened = self._calls.get(call)
        # No engine says more of a call that it has ended.
        return "" if opened is None else f"{opened[1]}{quoted(arguments)}}}}}\n\n"

    def tool_end(self, call: int) -> str:
        """The end of a call."""
        ended = self._calls.pop(call, None)
        return "" if ended is None else _stop(ended[0])

    def finish(self, reason: FinishReason, stop_reason: int | str | None, usage: Usage | None) -> str:
        """The end of the blocks that are open."""
        self._stream.end_by(reason, stop_reason)
        return self._close() + "".join([self.tool_end(call) for call in list(self._calls)])

    def with_extras(self, chunk: str, extras: Extras) -> str:
        """The chunk as it is: there are none."""
        return chunk

    def _start(self, block: dict[str, Any]) -> str:
        self._index += 1
        return _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> str:
        """The end of the block of text or thinking that is open."""
        kind, self._kind = self._kind, ""
        if not kind:
            return ""
        signed = ""
        if kind == "thinking":
            delta = {"type": "signature_delta", "signature": self._thought.signature()}
            signed = _event("content_block_delta", index=self._index, delta=delta)
        return signed + _stop(self._index)


def _event(name: str, **fields: Any) -> str:
    """An event of a stream."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n"


def assistant_message(
    id: str, model: str, content: list[dict[str, Any]], stop: Stop | None, usage: dict[str, Any]
) -> dict[str, Any]:
    """A message of the assistant's, as Anthropic writes it.

    Args:
        id: Its id.
        model: Name of the model, as the caller wrote it.
        content: Its blocks.
        stop: Why it ended; None: it has not.
        usage: What it cost.
    """
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None if stop is None else stop.reason,
        "stop_sequence": None if stop is None else stop.sequence,
        "usage": usage,
    }


def _delta(index: int, kind: str, field: str) -> str:
    return (
        "event: content_block_delta\n"
        f'data: {{"type":"content_block_delta","index":{index},"delta":{{"type":"{kind}","{field}":'
    )


def _stop(index: int) -> str:
    return _event("content_block_stop", index=index)
