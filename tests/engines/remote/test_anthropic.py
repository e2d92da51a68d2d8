"""The engine `anthropic`: its bodies against Anthropic's types, and its streams cut at every byte."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from pydantic import TypeAdapter

from engines.completion import collect
from engines.context import Context
from engines.contract import Capabilities
from engines.errors import InvalidRequest, Overloaded, PenstockError, StreamIncomplete, Unsupported
from engines.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    RedactedReasoning,
    Started,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from engines.registry import EngineSpec, make_engine
from engines.remote.anthropic_engine import DEFAULTS
from engines.remote.anthropic_request import _SAMPLING, message_body, our_param
from engines.remote.anthropic_stream import AnthropicStreamReader
from engines.remote.failures import Asked
from engines.remote.sse import MalformedStream, SSEParser
from engines.requests import GenerateRequest, Sampling
from tests.contract.asking import WEATHER
from tests.engines.remote.replay import Reply, replaying
from tests.engines.remote.wire import request

FIELDS = MessageCreateParamsStreaming.__required_keys__ | MessageCreateParamsStreaming.__optional_keys__
# Models of some age take them; the newest do not, and this version of the package leaves them out.
FIELDS |= {"temperature", "top_p", "top_k"}
PNG = "data:image/png;base64,AAAA"
CALL = {"id": "toolu_a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
THOUGHT = {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "ZW5j"}


def body(capabilities: Capabilities = DEFAULTS, budgets: dict[str, int] | None = None, **fields: Any) -> dict[str, Any]:
    return message_body(request(**fields), capabilities, model="theirs", max_tokens=100, thinking_budgets=budgets or {})


BODIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a greeting": ({}, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}),
    "a system prompt": (
        {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        {"system": "Be brief."},
    ),
    "sampling": (
        {"sampling": {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "stop": ["x"], "max_tokens": 9}},
        {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "stop_sequences": ["x"], "max_tokens": 9},
    ),
    "tools": (
        {"tools": [WEATHER], "parallel_tool_calls": False},
        {
            "tools": [{"name": "get_weather", "input_schema": WEATHER["function"]["parameters"]}],  # type: ignore[index]
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
    ),
    "a required tool": ({"tools": [WEATHER], "tool_choice": "required"}, {"tool_choice": {"type": "any"}}),
    "no tool": ({"tools": [WEATHER], "tool_choice": "none"}, {"tool_choice": {"type": "none"}}),
    "a named tool": (
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        {"tool_choice": {"type": "tool", "name": "get_weather"}},
    ),
    "a schema": (
        {"sampling": {"guided": {"json_schema": {"type": "object"}}}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    ),
    "effort": (
        {"reasoning_effort": "high"},
        {"output_config": {"effort": "high"}, "thinking": {"type": "adaptive", "display": "summarized"}},
    ),
    "no thinking": ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}, "max_tokens": 100}),
    "a beginning to go on with": (
        {
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
        {},
    ),
    "parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": PNG}},
                        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                        {
                            "type": "file",
                            "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"},
                        },
                        {"type": "file", "file": {"file_data": "data:text/plain;base64,SGk="}},
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
                            "title": "a.pdf",
                        },
                        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi"}},
                    ],
                }
            ]
        },
    ),
    "a loop of tools": (
        {
            "messages": [
                {"role": "user", "content": "Weather?"},
                {
                    "role": "assistant",
                    "content": "I look.",
                    "reasoning_content": "Let me see.",
                    "redacted_reasoning": [json.dumps(THOUGHT), json.dumps(REDACTED)],
                    "tool_calls": [CALL, {**CALL, "id": "toolu_b"}],
                },
                {"role": "tool", "tool_call_id": "toolu_a", "content": "sunny"},
                {"role": "tool", "tool_call_id": "toolu_b", "content": "dry"},
                {"role": "user", "content": "And?"},
            ],
            "tools": [WEATHER],
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
                {
                    "role": "assistant",
                    "content": [
                        THOUGHT,
                        REDACTED,
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "toolu_a", "name": "get_weather", "input": {"city": "Rome"}},
                        {"type": "tool_use", "id": "toolu_b", "name": "get_weather", "input": {"city": "Rome"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "toolu_a",
                            "content": [{"type": "text", "text": "sunny"}],
                        },
                        {"type": "tool_result", "tool_use_id": "toolu_b", "content": [{"type": "text", "text": "dry"}]},
                        {"type": "text", "text": "And?"},
                    ],
                },
            ]
        },
    ),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_is_one_of_anthropics_and_has_what_was_asked_for(what: str) -> None:
    fields, expected = BODIES[what]
    made = body(**fields)
    TypeAdapter(MessageCreateParamsStreaming).validate_python(made)
    assert made.keys() <= FIELDS
    assert {name: made[name] for name in expected} == expected
    assert made["model"] == "theirs" and made["stream"] is True and made["max_tokens"]


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"thinking": {"enabled": False}, "reasoning_effort": "low"}, {"thinking": {"type": "disabled"}}),
        ({"thinking": {"enabled": True}}, {"thinking": {"type": "adaptive", "display": "summarized"}}),
        (
            {"thinking": {"enabled": True}, "reasoning_effort": "low", "include_reasoning": False},
            {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "low"}},
        ),
        (
            {"thinking": {"enabled": True, "budget_tokens": 2000}},
            {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 2100},
        ),
    ],
    ids=["off", "on", "on with an effort", "a budget"],
)
def test_thinking_that_is_asked_for_by_itself(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    made = body(**asked)
    assert {name: made[name] for name in sent} == sent
    assert made.keys() & {"output_config"} == sent.keys() & {"output_config"}


def test_a_call_that_failed_is_told_so() -> None:
    said = [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "toolu_a", "is_error": True}]
    (result,) = body(messages=[{"role": "user", "content": "Hi"}, *said])["messages"][-1]["content"]
    assert result["is_error"] is True


def test_a_budget_of_thinking_is_no_part_of_the_answer() -> None:
    made = body(budgets={"low": 2000}, reasoning_effort="low")
    assert made["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert made["max_tokens"] == 2100
    with pytest.raises(Unsupported):
        body(budgets={"low": 2000}, reasoning_effort="high")


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi", **fields}]}


ASSISTANT: dict[str, Any] = {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *(
            ({"sampling": {name: value}}, f"sampling.{name}")
            for name, value in {
                "min_p": 0.1,
                "presence_penalty": 1,
                "frequency_penalty": 1,
                "repetition_penalty": 2,
                "seed": 0,
                "stop_token_ids": [1],
                "include_stop_str_in_output": True,
                "bad_words": ["x"],
                "allowed_token_ids": [1],
                "logprobs": 0,
                "logit_bias": {1: 1},
                "min_tokens": 1,
                "ignore_eos": True,
                "skip_special_tokens": False,
                "spaces_between_special_tokens": False,
                "n": 2,
                "guided": {"regex": "a"},
            }.items()
        ),
        ({"messages": None, "prompt": "x"}, "prompt"),
        ({"messages": None, "prompt_token_ids": [1]}, "prompt_token_ids"),
        ({"add_special_tokens": True}, "add_special_tokens"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "continue_final_message"),
        (message(**ASSISTANT), "continue_final_message"),
        (message(name="ada"), "messages[0].name"),
        (message(cache="x"), "messages[0].cache"),
        (
            message(content=[{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
            "messages[0].content[0]",
        ),
        (message(content=[{"type": "file", "file": {"file_data": "f"}}]), "messages[0].content[0]"),
        (message(content=[{"type": "image_url", "image_url": {"url": "file:///x"}}]), "messages[0].content[0]"),
        (message(role="tool"), "messages[0].tool_call_id"),
        (
            {"messages": [{**ASSISTANT, "reasoning_content": "hm"}, {"role": "user", "content": "x"}]},
            "messages[0].reasoning_content",
        ),
        (
            {"messages": [{**ASSISTANT, "redacted_reasoning": ["?"]}, {"role": "user", "content": "x"}]},
            "messages[0].redacted_reasoning",
        ),
        (
            {
                "messages": [
                    {**ASSISTANT, "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[]"}}]},
                    {"role": "user", "content": "x"},
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
    ids=str,
)
def test_what_the_api_cannot_take_is_refused_by_our_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(("asked", "clip", "sent"), [(9, True, 9), (500, False, 500), (500, True, 100)])
def test_a_limit_that_may_be_clipped_is_at_most_the_usual_one(asked: int, clip: bool, sent: int) -> None:
    assert body(sampling={"max_tokens": asked, "clip_max_tokens": clip})["max_tokens"] == sent


def test_every_field_is_sent_or_refused() -> None:
    """A field that is added to Sampling must be thought of here."""
    sent = {"temperature", "top_p", "top_k", "stop", "max_tokens", "clip_max_tokens", "guided"}
    assert Sampling.model_fields.keys() == sent | _SAMPLING.keys()


def test_what_the_model_cannot_do_is_refused() -> None:
    for fields in (
        {"tools": [WEATHER]},
        {"sampling": {"guided": {"json_schema": {}}}},
        message(content=[{"type": "image_url", "image_url": {"url": PNG}}]),
    ):
        with pytest.raises(Unsupported):
            body(Capabilities(), **fields)


def test_their_names_of_fields_become_ours() -> None:
    assert our_param("stop_sequences") == "sampling.stop"
    assert our_param("max_tokens") == "sampling.max_tokens"
    assert our_param("messages.0.content") == "messages.0.content"


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    return sse(
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    )


def ending(reason: str, stop_sequence: str | None = None) -> bytes:
    return sse(
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": stop_sequence},
            "usage": {"output_tokens": 12, "output_tokens_details": {"thinking_tokens": 5}},
        },
        {"type": "message_stop"},
    )


USAGE = Usage(prompt_tokens=60, completion_tokens=12, cached_tokens=30, reasoning_tokens=5, cache_write_tokens=20)
START = sse(
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "role": "assistant",
            "content": [],
            "usage": {
                "input_tokens": 10,
                "cache_read_input_tokens": 30,
                "cache_creation_input_tokens": 20,
                "output_tokens": 1,
            },
        },
    },
    {"type": "ping"},
)
TEXT = block(0, {"type": "text", "text": ""}, *({"type": "text_delta", "text": text} for text in ("Zoë ", "水車")))


def finished(reason: FinishReason, stop: str | None = None) -> Finished:
    return Finished((reason,), USAGE, "remote-0", (stop,))


STREAMS: dict[str, tuple[bytes, list[Event]]] = {
    "text": (START + TEXT + ending("end_turn"), [TextDelta("Zoë "), TextDelta("水車"), finished("stop")]),
    "a stop string": (
        START + TEXT + ending("stop_sequence", "x"),
        [TextDelta("Zoë "), TextDelta("水車"), finished("stop", "x")],
    ),
    "thinking and two calls": (
        START
        + block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Let me "},
            {"type": "thinking_delta", "thinking": "see."},
            {"type": "signature_delta", "signature": "c2ln"},
        )
        + block(1, REDACTED)
        + block(
            2,
            {"type": "tool_use", "id": "toolu_a", "name": "f", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"a": '},
            {"type": "input_json_delta", "partial_json": "1}"},
        )
        + block(3, {"type": "tool_use", "id": "toolu_b", "name": "g", "input": {}})
        + ending("tool_use"),
        [
            ReasoningDelta("Let me "),
            ReasoningDelta("see."),
            RedactedReasoning(json.dumps(THOUGHT)),
            RedactedReasoning(json.dumps(REDACTED)),
            ToolCallStarted(0, "toolu_a", "f"),
            ToolCallArgumentsDelta(0, '{"a": '),
            ToolCallArgumentsDelta(0, "1}"),
            ToolCallFinished(0),
            ToolCallStarted(1, "toolu_b", "g"),
            ToolCallArgumentsDelta(1, "{}"),
            ToolCallFinished(1),
            finished("tool_calls"),
        ],
    ),
    "a refusal": (START + ending("refusal"), [finished("content_filter")]),
}


def read(pieces: Sequence[bytes], asked: GenerateRequest) -> list[Event]:
    parser = SSEParser()
    reader = AnthropicStreamReader(asked, Asked("remote-0"))
    return [ours for piece in pieces for event in parser.feed(piece) for ours in reader.read(event)]


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_cut_anywhere_gives_the_same_events(what: str) -> None:
    data, events = STREAMS[what]
    for cut in range(len(data)):
        assert read((data[:cut], data[cut:]), request()) == events, f"cut at {cut}"


def test_hidden_reasoning_is_not_told() -> None:
    events = read((STREAMS["thinking and two calls"][0],), request(include_reasoning=False))
    assert not any(isinstance(event, ReasoningDelta | RedactedReasoning) for event in events)


def test_a_call_that_was_cut_off_is_not_finished() -> None:
    cut = block(
        0,
        {"type": "tool_use", "id": "toolu_a", "name": "f", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"x'},
    )
    for reason, ended in (("max_tokens", 0), ("tool_use", 1)):
        events = read((START + cut + ending(reason),), request())
        assert sum(isinstance(event, ToolCallFinished) for event in events) == ended


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": 5, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use"}},
    ],
)
def test_what_no_message_has_is_malformed(event: dict[str, Any]) -> None:
    with pytest.raises(MalformedStream):
        read((sse(event),), request())


async def test_the_engine_asks_as_the_api_wants_and_tells_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-ant-secret")
    error = sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    replies = [Reply([data]) for data in (STREAMS["text"][0], START + TEXT, error)]
    async with replaying(*replies) as replay:
        options = {"base_url": f"{replay.url}/v1", "api_key_env": "A_KEY", "model": "theirs"}
        engine = make_engine("remote-0", EngineSpec(kind="anthropic", model="model", options=options))
        await engine.start()
        try:
            events = [event async for event in engine.generate(request(), Context())]
            assert events == [Started("remote-0", "model"), *STREAMS["text"][1]]
            expected: list[type[PenstockError]] = [StreamIncomplete, Overloaded]
            for kind in expected:
                with pytest.raises(kind):
                    await collect(engine.generate(request(), Context()))
        finally:
            await engine.stop()
        assert replay.questions[0].path == "/v1/models"
        assert replay.posts[0].path == "/v1/messages"
        assert replay.posts[0].headers["x-api-key"] == "sk-ant-secret"
        assert replay.posts[0].headers["anthropic-version"] == "2023-06-01"
        assert replay.posts[0].body["model"] == "theirs"
