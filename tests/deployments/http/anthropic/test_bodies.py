"""Whatever JSON a field holds: a request, or an error that says what is wrong. And nothing that costs much."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.fleet_secret import FleetSecret
from deployments.http.anthropic.conversation import Conversation, conversation_of
from deployments.http.anthropic.error_body import error_json
from deployments.http.anthropic.message_body import (
    ConversationBody,
    MessageBody,
    message_asking,
    parse_conversation,
    tokenize_asking,
)
from deployments.http.anthropic.thinking import thinking_of
from deployments.http.server.hints import DispatchHints
from deployments.http.server.json_guard import parse_object
from engines.errors import InvalidRequest
from tests.deployments.http.anthropic.talking import PATH, ask, said
from tests.deployments.http.any_json import fields, values
from tests.deployments.http.conftest import HELLO, Serving

SECRET = FleetSecret()
LIKELY = st.sampled_from(
    [
        *("", "a", "auto", "any", "tool", "none", "text", "image", "document", "tool_use", "tool_result", "thinking"),
        *("redacted_thinking", "search_result", "base64", "url", "content", "json_schema", "user", "assistant"),
        *("system", "enabled", "adaptive", "disabled", "custom", "image/png", "text/plain", "application/pdf", "AAAA"),
    ]
)
KEYS = st.sampled_from(
    [
        *("role", "content", "type", "text", "name", "input", "id", "tool_use_id", "source", "media_type", "data"),
        *("url", "thinking", "signature", "schema", "format", "effort", "input_schema", "budget_tokens", "title", "x"),
    ]
)
VALUES = values(LIKELY, KEYS)
BLOCKS = st.fixed_dictionaries(
    {"type": LIKELY},
    optional={
        "text": LIKELY,
        "id": LIKELY,
        "name": LIKELY,
        "input": st.dictionaries(KEYS, VALUES, max_size=2),
        "tool_use_id": LIKELY,
        "content": VALUES,
        "source": VALUES,
        "thinking": LIKELY,
        "signature": LIKELY,
        "data": LIKELY,
    },
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": LIKELY, "content": LIKELY | st.lists(BLOCKS, max_size=3)}), max_size=4
)


async def shown(body: ConversationBody) -> Conversation:
    return conversation_of(body.system, body.messages, await thinking_of(body.messages, SECRET))


@given(fields(MessageBody, VALUES), st.none() | MESSAGES, st.booleans())
@settings(max_examples=400, deadline=None)
async def test_any_body(given_fields: dict[str, Any], messages: list[Any] | None, is_counted: bool) -> None:
    body = {"model": "demo", "max_tokens": 9, "messages": HELLO, **given_fields}
    if messages is not None:
        body["messages"] = messages
    data = parse_object(json.dumps(body).encode(), 100)
    try:
        if is_counted:
            counted = parse_conversation(ConversationBody, data)
            tokenize_asking(counted, data, DispatchHints(), await shown(counted))
        else:
            parsed = parse_conversation(MessageBody, data)
            message_asking(parsed, data, DispatchHints(), await shown(parsed))
    except InvalidRequest as error:
        assert len(error_json(error, "1")) < 3000
        assert "Traceback" not in error.message


HUGE = "x" * 1_000_000
MANY: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": HELLO * 20_000}),
    ("blocks", {"messages": said(*[{"type": "text", "text": ""}] * 20_000)}),
    ("wrong blocks", {"messages": said(*[{"type": "x"}] * 9_000)}),
    ("lists", {"messages": said({"type": "tool_use", "id": "a", "name": "a", "input": {"a": [[]] * 30_000}})}),
    ("depth", {"system": json.loads("[" * 120 + "]" * 120)}),
    ("a type", {"messages": said({"type": HUGE})}),
    ("a key", {"messages": said({"type": "text", "text": "a", HUGE: 1})}),
    ("a field", {HUGE: 1}),
    ("a tool's type", {"tools": [{"type": HUGE}]}),
    ("a call", {"messages": said({"type": "tool_result", "tool_use_id": HUGE})}),
    (
        "a media type",
        {"messages": said({"type": "image", "source": {"type": "base64", "media_type": HUGE, "data": ""}})},
    ),
    ("a stop sequence", {"stop_sequences": [HUGE]}),
    ("tools", {"tools": [{"name": "a", "input_schema": {}}] * 2_000}),
]


@pytest.mark.parametrize(("name", "given_fields"), MANY, ids=[name for name, _ in MANY])
async def test_too_much_is_refused_in_few_words(serving: Serving, name: str, given_fields: dict[str, Any]) -> None:
    async with serving(["Hi"]) as served:
        answer = await ask(served, **given_fields)
        assert answer.status == 400, (name, answer.body[:300])
        assert len(answer.body) < 3000
        assert not served.engine.requests
        await served.still_serves()


async def test_much_that_is_right_is_taken(serving: Serving) -> None:
    turns = [{"role": role, "content": [{"type": "text", "text": "a" * 100}]} for role in ("user", "assistant")]
    async with serving(["Hi"]) as served:
        assert (await ask(served, messages=[*turns * 2_000, *HELLO])).status == 200
        assert len(served.engine.requests[0].messages) == 4_001


@pytest.mark.parametrize("name", ["__proto__", "__class__", "model_config", "\x00", "\u202e"], ids=repr)
async def test_odd_names_are_unknown_fields(serving: Serving, name: str) -> None:
    async with serving(["Hi"]) as served:
        for given_fields in (
            {name: {"a": 1}},
            {"messages": said({"type": "text", "text": "a", name: 1})},
            {"messages": [{**HELLO[0], name: 1}]},
        ):
            answer = await ask(served, **given_fields)
            assert answer.status == 400 and "nknown field" in answer.json["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": NaN}', b'{"model": "\\ud800"}', b"\xff"])
async def test_what_is_no_json_is_said_to_be_none(serving: Serving, body: bytes) -> None:
    async with serving(["Hi"]) as served:
        for path in (PATH, f"{PATH}/count_tokens"):
            answer = await served.post(path, body)
            assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
