"""Any sequence of events, in any rhythm, is a well-formed stream, and says the same as the whole answer."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.fleet_secret import FleetSecret
from deployments.http.anthropic.message_events import MessageBlocks, MessageStream
from deployments.http.anthropic.stop_reason import stop_of
from deployments.http.anthropic.thinking import Thought
from engines.completion import Completion, CompletionBuilder
from engines.errors import InstanceLost, PenstockError
from engines.events import (
    FinishReason,
    Usage,
)
from tests.deployments.http.anthropic.talking import events_of
from tests.deployments.http.server.scripted_streams import TEXT, Script, answers, played

SECRET = FleetSecret()
ANSWERS = answers(stop_reasons=st.none() | TEXT)


async def streamed(script: Script, error: PenstockError | None = None, *, shown: bool = True) -> bytes:
    def stop(reason: FinishReason, stop_reason: int | str | None, usage: Usage) -> Any:
        return stop_of(reason, stop_reason, usage, 0)

    events = MessageStream("msg_1", 'mo"del\u2603', stop, request_id="1")
    return played(script, events, MessageBlocks(events, lambda: Thought(SECRET, shown=shown)), error)


def read(events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The blocks and the end of a stream, held to the order that Anthropic's events have."""
    start, *middle = events
    assert start["type"] == "message_start"
    message = start["message"]
    assert (message["content"], message["stop_reason"], message["model"]) == ([], None, 'mo"del\u2603')
    blocks: list[dict[str, Any]] = []
    open_blocks: set[int] = set()
    while middle and middle[0]["type"].startswith("content_block"):
        event = middle.pop(0)
        index = event["index"]
        match event["type"]:
            case "content_block_start":
                assert index == len(blocks)
                blocks.append(dict(event["content_block"]))
                # Only calls may be open beside one another.
                assert all(blocks[other]["type"] == "tool_use" for other in open_blocks)
                open_blocks.add(index)
            case "content_block_stop":
                open_blocks.remove(index)
            case _:
                assert index in open_blocks
                add(blocks[index], event["delta"])
    if middle[0]["type"] == "error":
        (end,) = middle
    else:
        assert not open_blocks
        end, stop = middle
        assert (end["type"], stop) == ("message_delta", {"type": "message_stop"})
    return blocks, end


def add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    """Adds a delta, of the kind that belongs to the block."""
    kind = delta.pop("type")
    ((name, piece),) = delta.items()
    assert (block["type"], kind, name) in {
        ("text", "text_delta", "text"),
        ("thinking", "thinking_delta", "thinking"),
        ("thinking", "signature_delta", "signature"),
        ("tool_use", "input_json_delta", "partial_json"),
    }
    assert kind != "signature_delta" or not block["signature"]
    block[name] = block.get(name, "") + piece


def whole(script: Script) -> Completion:
    builder = CompletionBuilder()
    found = [builder.add(step) for step in script if not isinstance(step, str)]
    assert found[-1] is not None
    return found[-1]


@given(ANSWERS)
@settings(max_examples=300, deadline=None)
async def test_a_stream_says_what_the_whole_answer_says(script: Script) -> None:
    blocks, end = read(events_of(await streamed(script)))
    completion = whole(script)
    (choice,) = completion.choices
    of = {
        kind: [block for block in blocks if block["type"] == kind]
        for kind in ("text", "thinking", "redacted_thinking", "tool_use")
    }
    assert "".join(block["text"] for block in of["text"]) == choice.text
    assert "".join(block["thinking"] for block in of["thinking"]) == choice.reasoning
    assert all(block["thinking"] and block["signature"] for block in of["thinking"])
    assert [block["data"] for block in of["redacted_thinking"]] == list(choice.redacted_reasoning)
    calls = [(block["id"], block["name"], block.get("partial_json", "")) for block in of["tool_use"]]
    assert calls == [(call.id, call.name, call.arguments) for call in choice.tool_calls]
    assert end["usage"]["output_tokens"] == 5 and end["usage"]["cache_read_input_tokens"] == 1
    is_stop = choice.reason == "stop" and choice.stop_reason is not None
    assert end["delta"]["stop_sequence"] == (choice.stop_reason if is_stop else None)


@given(ANSWERS)
@settings(max_examples=100, deadline=None)
async def test_a_stream_that_breaks_is_well_formed_up_to_its_error(script: Script) -> None:
    _, end = read(events_of(await streamed(script, InstanceLost("It died."))))
    assert end["error"]["message"] == "It died."


@given(ANSWERS)
@settings(max_examples=100, deadline=None)
async def test_thinking_that_is_not_shown_is_signed_all_the_same(script: Script) -> None:
    shown, _ = read(events_of(await streamed(script)))
    hidden, _ = read(events_of(await streamed(script, shown=False)))
    assert [block["type"] for block in hidden] == [block["type"] for block in shown]
    for block, other in zip(hidden, shown, strict=True):
        if block["type"] == "thinking":
            assert not block["thinking"]
            assert block["signature"].partition(".")[2] == other["signature"].partition(".")[2]


async def test_a_silent_stream_is_kept_by_pings() -> None:
    assert json.loads(MessageStream.keep_alive.split("data: ")[1]) == {"type": "ping"}
    assert MessageStream.keep_alive.startswith("event: ping\n")
