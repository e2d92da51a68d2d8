"""Whatever JSON a field holds: a request, or an error that says what is wrong. And nothing that costs much."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.fleet_secret import FleetSecret
from deployments.http.openai_common.error_body import error_json
from deployments.http.responses.conversation import Conversation, conversation_of
from deployments.http.responses.items import ItemReference, MessageItem
from deployments.http.responses.reasoning import Sealer, thoughts_of
from deployments.http.responses.response_body import (
    ContextBody,
    ResponseBody,
    parse_context,
    response_asking,
    tokenize_asking,
)
from deployments.http.server.hints import DispatchHints
from deployments.http.server.json_guard import parse_object
from engines.errors import InvalidRequest
from tests.deployments.http.any_json import fields, values
from tests.deployments.http.conftest import Serving
from tests.deployments.http.responses.talking import ASKED, PATH, ask

SEALER = Sealer(FleetSecret(), "team")
LIKELY = st.sampled_from(
    [
        *("", "a", "auto", "none", "required", "function", "custom", "allowed_tools", "message", "function_call"),
        *("function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning", "item_reference"),
        *("input_text", "output_text", "input_image", "input_file", "refusal", "reasoning_text", "summary_text"),
        *("user", "assistant", "system", "developer", "json_schema", "json_object", "text", "low", "web_search"),
    ]
)
KEYS = st.sampled_from(
    [
        *("role", "content", "type", "text", "name", "input", "id", "call_id", "output", "arguments", "summary"),
        *("encrypted_content", "image_url", "file_data", "file_id", "schema", "format", "effort", "parameters", "mode"),
        *("tools", "strict", "async", "async_", "status", "x"),
    ]
)
VALUES = values(LIKELY, KEYS)
ITEMS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "type": LIKELY,
            "role": LIKELY,
            "content": LIKELY | st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=3),
            "id": LIKELY,
            "call_id": LIKELY,
            "name": LIKELY,
            "arguments": LIKELY,
            "output": VALUES,
            "input": LIKELY,
            "summary": VALUES,
            "encrypted_content": LIKELY,
        },
    ),
    max_size=4,
)


async def shown(body: ContextBody) -> Conversation:
    if isinstance(body.input, str):
        items: Any = [(MessageItem(role="user", content=body.input), ("input",))]
    else:
        given = enumerate(body.input or ())
        items = [(item, ("input", index)) for index, item in given if not isinstance(item, ItemReference)]
    return conversation_of(body.instructions, items, await thoughts_of(items, SEALER))


@given(fields(ResponseBody, VALUES), st.none() | ITEMS, st.booleans())
@settings(max_examples=400, deadline=None)
async def test_any_body(given_fields: dict[str, Any], items: list[Any] | None, is_counted: bool) -> None:
    body = {**ASKED, **given_fields}
    if items is not None:
        body["input"] = items
    data = parse_object(json.dumps(body).encode(), 100)
    try:
        if is_counted:
            counted = parse_context(ContextBody, data)
            tokenize_asking(counted, data, DispatchHints(), await shown(counted))
        else:
            parsed = parse_context(ResponseBody, data)
            response_asking(parsed, data, DispatchHints(), await shown(parsed))
            json.dumps(parsed.echo(data))
    except InvalidRequest as error:
        assert len(error_json(error, "1")) < 3000
        assert "Traceback" not in error.message


HUGE = "x" * 1_000_000
USER = {"role": "user", "content": "a"}
MANY: list[tuple[str, dict[str, Any]]] = [
    ("items", {"input": [USER] * 20_000}),
    ("parts", {"input": [{"role": "user", "content": [{"type": "input_text", "text": ""}] * 20_000}]}),
    ("wrong items", {"input": [{"type": "x"}] * 9_000}),
    ("depth", {"instructions": json.loads("[" * 120 + "]" * 120)}),
    ("a type", {"input": [{"type": HUGE}]}),
    ("a key", {"input": [{**USER, HUGE: 1}]}),
    ("a field", {HUGE: 1}),
    ("a tool's type", {"tools": [{"type": HUGE}]}),
    ("a tool's name", {"tools": [{"type": "custom", "name": HUGE}]}),
    ("a tool that is chosen", {"tool_choice": {"type": "function", "name": HUGE}}),
    ("a call's id", {"input": [{"type": "function_call_output", "call_id": HUGE, "output": ""}]}),
    (
        "arguments",
        {"input": [{"type": "function_call", "call_id": "a", "name": "a", "arguments": "[" * 200_000}, USER]},
    ),
    ("a label", {"prompt_cache_key": HUGE}),
    ("metadata", {"metadata": {HUGE: "a"}}),
    ("tools", {"tools": [{"type": "custom", "name": f"t{index}"} for index in range(2_000)]}),
    ("what to include", {"include": ["x"] * 100_000}),
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
    turns = [{"role": role, "content": "a" * 100} for role in ("user", "assistant")]
    async with serving(["Hi"]) as served:
        assert (await ask(served, input=[*turns * 2_000, USER])).status == 200
        assert len(served.engine.requests[0].messages) == 4_001


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": NaN}', b'{"model": "\\ud800"}', b"\xff"])
async def test_what_is_no_json_is_said_to_be_none(serving: Serving, body: bytes) -> None:
    async with serving(["Hi"]) as served:
        for path in (PATH, f"{PATH}/input_tokens"):
            answer = await served.post(path, body)
            assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
