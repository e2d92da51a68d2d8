"""Streams as servers of OpenAI's API write them, and what they say in our events."""

import json
from typing import Any

from engines.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from engines.remote.failures import Asked
from engines.remote.openai_stream import OpenAIStreamReader
from engines.remote.sse import SSEParser
from engines.requests import GenerateRequest

DONE = b"data: [DONE]\n\n"
NO_USAGE = Usage()


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"model": "model", "messages": [{"role": "user", "content": "Hi"}], **fields})


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: Any = None, *, reason: str | None = None, index: int = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return event({**head, "choices": [choice], "usage": None, **fields})


def usage(**fields: Any) -> bytes:
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": fields})


def call(index: int, **fields: Any) -> Any:
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    return {"tool_calls": [{"index": index, **fields, "function": function}]}


def finished(reason: FinishReason, usage: Usage = NO_USAGE) -> Finished:
    return Finished((reason,), usage, "remote-0", (None,))


TEXT = (
    b": a comment\r\n\r\n"
    + chunk({"role": "assistant", "content": "", "refusal": None})
    + chunk({"content": "Zoë says "})
    + chunk({"content": "水車 \U0001f30a"})
    + chunk(reason="stop")
    + usage(
        prompt_tokens=9,
        completion_tokens=5,
        total_tokens=14,
        prompt_tokens_details={"cached_tokens": 4, "audio_tokens": 0},
        completion_tokens_details={"reasoning_tokens": 0},
    )
    + DONE
)
PARALLEL_CALLS = (
    chunk({"role": "assistant", "content": None})
    + chunk(call(0, id="call_a", type="function", name="get_weather", arguments=""))
    + chunk(call(1, id="call_b", type="function", name="get_time", arguments=""))
    + chunk(call(0, arguments='{"city": '))
    + chunk(call(1, arguments='{"zone": "'))
    + chunk(call(0, arguments='"Paris"}'))
    + chunk(call(1, arguments='CET"}'))
    + chunk(reason="tool_calls")
    + DONE
)
REASONING = (
    chunk({"role": "assistant", "reasoning_content": "Let me "})
    + chunk({"reasoning": "see.", "reasoning_content": "see."})
    + chunk({"content": "Four."})
    + chunk(reason="stop")
    + usage(prompt_tokens=3, completion_tokens=8, completion_tokens_details={"reasoning_tokens": 6})
    + DONE
)
REFUSAL = (
    chunk({"role": "assistant", "content": "", "refusal": None})
    + chunk({"refusal": "I cannot "})
    + chunk({"refusal": "help with that."})
    + chunk(reason="stop")
    + DONE
)
FILTERED = (
    event({"id": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]})
    + chunk({"role": "assistant", "content": "Once"})
    + chunk(reason="content_filter")
    + DONE
)
# A whole call in one piece, without an index and an id, as some servers send it; no [DONE].
WHOLE_CALL = chunk({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}, "id": "x"}]}) + chunk(reason="stop")

# As Mistral's models send it.
PARTS = (
    chunk({"role": "assistant", "content": ""})
    + chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me "}]}]})
    + chunk({"content": [{"type": "thinking", "thinking": "see."}, {"type": "text", "text": "Four"}]})
    + chunk({"content": [{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "."}]})
    + chunk({"content": []})
    + chunk(reason="stop")
    + DONE
)

STREAMS: dict[str, tuple[bytes, list[Event]]] = {
    "text": (
        TEXT,
        [TextDelta("Zoë says "), TextDelta("水車 \U0001f30a"), finished("stop", Usage(9, 5, 4, 0))],
    ),
    "text with carriage returns": (
        TEXT.replace(b"\n", b"\r\n").replace(b"\r\r", b"\r"),
        [TextDelta("Zoë says "), TextDelta("水車 \U0001f30a"), finished("stop", Usage(9, 5, 4, 0))],
    ),
    "parallel calls": (
        PARALLEL_CALLS,
        [
            ToolCallStarted(0, "call_a", "get_weather"),
            ToolCallStarted(1, "call_b", "get_time"),
            ToolCallArgumentsDelta(0, '{"city": '),
            ToolCallArgumentsDelta(1, '{"zone": "'),
            ToolCallArgumentsDelta(0, '"Paris"}'),
            ToolCallArgumentsDelta(1, 'CET"}'),
            ToolCallFinished(0),
            ToolCallFinished(1),
            finished("tool_calls"),
        ],
    ),
    "reasoning": (
        REASONING,
        [
            ReasoningDelta("Let me "),
            ReasoningDelta("see."),
            TextDelta("Four."),
            finished("stop", Usage(3, 8, 0, 6)),
        ],
    ),
    "parts": (
        PARTS,
        [
            ReasoningDelta("Let me "),
            ReasoningDelta("see."),
            TextDelta("Four"),
            TextDelta("."),
            finished("stop"),
        ],
    ),
    "refusal": (REFUSAL, [TextDelta("I cannot "), TextDelta("help with that."), finished("content_filter")]),
    "content filter": (FILTERED, [TextDelta("Once"), finished("content_filter")]),
    "a whole call": (
        WHOLE_CALL,
        [
            ToolCallStarted(0, "x", "f"),
            ToolCallArgumentsDelta(0, "{}"),
            ToolCallFinished(0),
            finished("tool_calls"),
        ],
    ),
}


def read(*pieces: bytes, request: GenerateRequest = request()) -> list[Event]:  # noqa: B008 - it is frozen
    """What a stream in these pieces says; raises what its reader raises."""
    parser = SSEParser()
    reader = OpenAIStreamReader(request, Asked("remote-0"))
    events: list[Event] = []
    for piece in pieces:
        for each in parser.feed(piece):
            events.extend(reader.read(each))
            if events and isinstance(events[-1], Finished):
                return events
    if not events or not isinstance(events[-1], Finished):
        end = reader.end()
        events.extend(() if end is None else (end,))
    return events
