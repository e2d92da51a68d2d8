"""Any sequence of events, in any rhythm, is a well-formed stream, and says the same as the whole answer."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.fleet_secret import FleetSecret
from deployments.http.responses.reasoning import Sealer, Thought
from deployments.http.responses.response_events import ResponseOutput, ResponseStream
from deployments.http.responses.response_object import ResponseObject, end_of
from engines.completion import Completion, CompletionBuilder
from engines.errors import InstanceLost, PenstockError
from tests.deployments.http.responses.talking import checked, events_of
from tests.deployments.http.server.scripted_streams import LOGPROBS, TEXT, Script, answers, played

SEALER = Sealer(FleetSecret(), "team")
PIECES = TEXT | st.sampled_from(['{"input": "', '{"inp', 'ut":"', "\\", "u00e9", "\\ud83d", "\\ude00", '"}', '{"a":'])


ANSWERS = answers(names=st.sampled_from(["add", "shell"]) | TEXT, arguments=PIECES, logprobs=LOGPROBS)


def a_response() -> tuple[ResponseObject, ResponseOutput]:
    fields = {"model": 'mo"del\u2603', "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    output = ResponseOutput("1", {"shell"}, SEALER.seal, encrypts=True)
    return ResponseObject("resp_1", 1, fields, is_stored=False), output


async def streamed(script: Script, error: PenstockError | None = None) -> bytes:
    response, output = a_response()
    events = ResponseStream(response, output, request_id="1")
    return played(script, events, output, error)


def read(events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The items as their events say them, and the response at the end, held to the order that OpenAI's events have."""
    created, in_progress, *middle, end = events
    assert (created["type"], in_progress["type"]) == ("response.created", "response.in_progress")
    assert created["response"] == in_progress["response"]
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert created["sequence_number"] == 0
    items: list[dict[str, Any]] = []
    said: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    open_items: set[int] = set()
    for event in middle:
        index = event["output_index"]
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert index == len(items)
            items.append(event["item"])
            # Only calls may be open beside one another.
            assert all(items[other]["type"].endswith("call") for other in open_items)
            open_items.add(index)
            said[index], logprobs[index] = "", []
            continue
        assert index in open_items
        item = items[index]
        assert event.get("item_id", item["id"]) == item["id"]
        match kind:
            case "output_item.done":
                open_items.remove(index)
                assert event["item"]["id"] == item["id"] and event["item"]["type"] == item["type"]
                items[index] = event["item"]
                assert text_of(event["item"]) == said[index]
            case "content_part.added":
                assert event["part"]["text"] == ""
            case "content_part.done":
                assert event["part"]["text"] == said[index]
            case _:
                name, _, stage = kind.rpartition(".")
                assert (
                    name
                    == {
                        "message": "output_text",
                        "reasoning": "reasoning_text",
                        "function_call": "function_call_arguments",
                        "custom_tool_call": "custom_tool_call_input",
                    }[item["type"]]
                )
                if stage == "delta":
                    assert event["delta"]
                    said[index] += event["delta"]
                    logprobs[index] += event.get("logprobs", [])
                else:
                    assert event.get("text", event.get("arguments", event.get("input"))) == said[index]
                    assert event.get("logprobs", []) == logprobs[index]
    assert not open_items
    response = checked(end["response"])
    assert end["type"] == f"response.{response['status']}"
    assert response["output"] == items
    return items, response


def text_of(item: dict[str, Any]) -> str:
    """What an item says."""
    if "content" in item:
        return "".join(part["text"] for part in item["content"])
    said: str = item["arguments" if item["type"] == "function_call" else "input"]
    return said


def whole(script: Script) -> tuple[Completion, dict[str, Any]]:
    """The whole answer to the same events."""
    builder = CompletionBuilder()
    response, output = a_response()
    completion = None
    for step in script:
        if not isinstance(step, str):
            output.hear(step)
            completion = builder.add(step)
    assert completion is not None
    text = response.text(output.json, end_of(output.ended_by, completion.usage, 7))
    return completion, checked(json.loads(text))


def without_nonces(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what no two have in common, with what is encrypted opened."""
    for item in response["output"]:
        if item.get("encrypted_content") is not None:
            item["encrypted_content"] = SEALER.open(item["encrypted_content"])
    return {**response, "completed_at": response["completed_at"] is not None}


@given(ANSWERS)
@settings(max_examples=300, deadline=None)
async def test_a_stream_says_what_the_whole_answer_says(script: Script) -> None:
    _, response = read(events_of(await streamed(script)))
    completion, answered = whole(script)
    assert without_nonces(response) == without_nonces(answered)
    items = response["output"]
    (choice,) = completion.choices
    of = {kind: [item for item in items if item["type"] == kind] for kind in ("message", "reasoning", "function_call")}
    assert "".join(map(text_of, of["message"])) == choice.text
    assert "".join(map(text_of, of["reasoning"])) == choice.reasoning
    for item in of["reasoning"]:
        assert isinstance(item["encrypted_content"], Thought)
        assert item["encrypted_content"].text == text_of(item)
    redacted = [item["encrypted_content"].redacted for item in of["reasoning"] if not item["content"]]
    assert redacted == list(choice.redacted_reasoning)
    calls = [(item["call_id"], item["name"], item["arguments"]) for item in of["function_call"]]
    assert calls == [(call.id, call.name, call.arguments) for call in choice.tool_calls if call.name != "shell"]
    assert response["usage"]["output_tokens"] == 5
    is_whole = choice.reason in ("stop", "tool_calls")
    assert response["status"] == ("completed" if is_whole else "incomplete")


@given(ANSWERS)
@settings(max_examples=100, deadline=None)
async def test_a_stream_that_breaks_is_well_formed_up_to_its_error(script: Script) -> None:
    items, response = read(events_of(await streamed(script, InstanceLost("It died."))))
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "It died."}
    assert response["output"] == items
