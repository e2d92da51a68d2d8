"""The stream of Anthropic's Messages API, as our events."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from engines.errors import StreamIncomplete
from engines.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    RedactedReasoning,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from engines.remote.failures import Asked, json_event
from engines.remote.json_fields import as_count, as_dict, as_str, is_json
from engines.remote.sse import MalformedStream, ServerSentEvent
from engines.requests import GenerateRequest

_REASONS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class _Block:
    """A block of content under way."""

    __slots__ = ("call", "input", "pieces", "signature", "type")

    def __init__(self, type: str, call: int, input: Mapping[str, Any]) -> None:
        self.type = type
        self.call = call
        self.input = input
        self.pieces: list[str] = []
        self.signature = ""


class AnthropicStreamReader:
    """Reads the events of one message.

    A block of thinking is told twice: its text as `ReasoningDelta`, for people, and at its end the whole block with its
    signature as `RedactedReasoning`, because the API wants it back as it was. The data of that event are the block as
    JSON text; what the API redacted itself is told in the same way.

    Args:
        request: What was asked.
        asked: The same, for errors.
    """

    def __init__(self, request: GenerateRequest, asked: Asked) -> None:
        self.usage = Usage()
        self._asked = asked
        self._tells_reasoning = request.include_reasoning
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._doubtful: list[int] = []
        self._counts: dict[str, int] = {}
        self._reason: FinishReason | None = None
        self._stop_sequence: str | None = None

    def read(self, event: ServerSentEvent) -> list[Event]:
        """Our events of one of theirs.

        Raises:
            PenstockError: It is an error.
            MalformedStream: It is nothing that this API has.
        """
        theirs = json_event(event, "a piece of a message", self._asked)
        match theirs.get("type"):
            case "message_start":
                self._count(as_dict(theirs.get("message")).get("usage"))
            case "content_block_start":
                return list(self._start(as_count(theirs.get("index")), as_dict(theirs.get("content_block"))))
            case "content_block_delta":
                return list(self._delta(as_count(theirs.get("index")), as_dict(theirs.get("delta"))))
            case "content_block_stop":
                return list(self._stop(as_count(theirs.get("index"))))
            case "message_delta":
                self._count(theirs.get("usage"))
                delta = as_dict(theirs.get("delta"))
                if reason := as_str(delta.get("stop_reason")):
                    self._reason = _REASONS.get(reason, "stop")
                    self._stop_sequence = as_str(delta.get("stop_sequence")) or None
            case "message_stop":
                rest = [event for index in list(self._blocks) for event in self._stop(index)]
                finished = self.end()
                if finished is None:
                    raise StreamIncomplete("The server ended the message without saying why.")
                if self._reason == "tool_calls":
                    rest.extend(map(ToolCallFinished, self._doubtful))
                return [*rest, finished]
        # Pings, and types that are yet to be thought of.
        return []

    def end(self) -> Finished | None:
        """The end of the message where it has said why it ended; None where it was not complete."""
        if self._reason is None:
            return None
        return Finished((self._reason,), self.usage, self._asked.engine, (self._stop_sequence,))

    def _start(self, index: int, theirs: Mapping[str, Any]) -> Iterator[Event]:
        type = as_str(theirs.get("type"))
        block = self._blocks[index] = _Block(type, self._calls, as_dict(theirs.get("input")))
        if type == "tool_use":
            self._calls += 1
            id, name = as_str(theirs.get("id")), as_str(theirs.get("name"))
            if not (id and name):
                raise MalformedStream("a tool call has no id or no name")
            yield ToolCallStarted(block.call, id, name)
        elif type == "text" and (text := as_str(theirs.get("text"))):
            yield TextDelta(text)
        elif type == "redacted_thinking" and self._tells_reasoning:
            yield RedactedReasoning(json.dumps({"type": type, "data": as_str(theirs.get("data"))}))

    def _delta(self, index: int, theirs: Mapping[str, Any]) -> Iterator[Event]:
        block = self._blocks.get(index)
        if block is None:
            raise MalformedStream("a piece of a block comes before the block")
        match block.type, theirs.get("type"):
            case "text", "text_delta":
                if text := as_str(theirs.get("text")):
                    yield TextDelta(text)
            case "thinking", "thinking_delta":
                text = as_str(theirs.get("thinking"))
                block.pieces.append(text)
                if text and self._tells_reasoning:
                    yield ReasoningDelta(text)
            case "thinking", "signature_delta":
                block.signature += as_str(theirs.get("signature"))
            case "tool_use", "input_json_delta":
                if arguments := as_str(theirs.get("partial_json")):
                    block.pieces.append(arguments)
                    yield ToolCallArgumentsDelta(block.call, arguments)

    def _stop(self, index: int) -> Iterator[Event]:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if block.type == "tool_use":
            if not block.pieces:
                # All the pieces together must be JSON, also where there are none.
                yield ToolCallArgumentsDelta(block.call, json.dumps(block.input))
            if not block.pieces or is_json("".join(block.pieces)):
                yield ToolCallFinished(block.call)
            else:
                # Cut off, unless the message ends because of its calls.
                self._doubtful.append(block.call)
        elif block.type == "thinking" and block.signature and self._tells_reasoning:
            whole = {"type": "thinking", "thinking": "".join(block.pieces), "signature": block.signature}
            yield RedactedReasoning(json.dumps(whole))

    def _count(self, theirs: Any) -> None:
        """Takes the counts so far; each event may have some of them."""
        fields = as_dict(theirs)
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens"):
            if fields.get(name) is not None:
                self._counts[name] = as_count(fields[name])
        thinking = as_dict(fields.get("output_tokens_details")).get("thinking_tokens")
        if thinking is not None:
            self._counts["thinking"] = as_count(thinking)
        counts = self._counts
        cached = counts.get("cache_read_input_tokens", 0)
        written = counts.get("cache_creation_input_tokens", 0)
        self.usage = Usage(
            # Theirs are the tokens that were neither read from the cache nor written to it.
            prompt_tokens=counts.get("input_tokens", 0) + cached + written,
            completion_tokens=counts.get("output_tokens", 0),
            cached_tokens=cached,
            reasoning_tokens=counts.get("thinking", 0),
            cache_write_tokens=written,
        )
