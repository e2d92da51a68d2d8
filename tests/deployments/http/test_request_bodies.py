"""Whatever JSON a field holds: a request, or an error that says what is wrong. Never anything else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.http.openai.chat_body import ChatBody, parse_chat
from deployments.http.openai.completion_body import CompletionBody, parse_completion
from deployments.http.openai_common.error_body import error_json
from deployments.http.server.hints import DispatchHints
from deployments.http.server.json_guard import parse_object
from engines.errors import InvalidRequest
from engines.requests import Guided
from tests.deployments.http.any_json import fields, values

LIKELY = st.sampled_from(
    ["", "a", "auto", "required", "none", "text", "json_schema", "json_object", "function", "user", "{}", "5"]
)
KEYS = st.sampled_from(
    ["role", "content", "type", "text", "function", "name", "json_schema", "schema", "regex", "choice", "5", "x", "id"]
)
VALUES = values(LIKELY, KEYS)
MESSAGES = [{"role": "user", "content": "hi"}]


def check(parse: Any, body: dict[str, Any]) -> None:
    data = parse_object(json.dumps(body).encode(), 100)
    try:
        parse(data, DispatchHints())
    except InvalidRequest as error:
        assert len(error_json(error, "1")) < 3000
        assert "Traceback" not in error.message


@given(fields(ChatBody, VALUES))
@settings(max_examples=200, deadline=None)
def test_any_chat_body(given_fields: dict[str, Any]) -> None:
    check(parse_chat, {"model": "demo", "messages": MESSAGES, **given_fields})


@given(fields(CompletionBody, VALUES))
@settings(max_examples=150, deadline=None)
def test_any_completion_body(given_fields: dict[str, Any]) -> None:
    check(parse_completion, {"model": "demo", "prompt": "p", **given_fields})


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("given_fields", "guided"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Guided(json_object=True)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
            Guided(json_schema=SCHEMA),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, Guided(json_schema=SCHEMA)),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, Guided(json_schema=SCHEMA)),
        ({"structured_outputs": {"json_object": True, "regex": None}}, Guided(json_object=True)),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Guided(choice=["a", "b"])),
        ({"structured_outputs": {"grammar": "root ::= x"}}, Guided(grammar="root ::= x")),
        ({"structured_outputs": {"structural_tag": "{}"}}, Guided(structural_tag="{}")),
        ({"guided_json": SCHEMA}, Guided(json_schema=SCHEMA)),
        ({"guided_regex": "a+"}, Guided(regex="a+")),
        ({"guided_choice": ["a"]}, Guided(choice=["a"])),
        ({"guided_grammar": "root ::= x"}, Guided(grammar="root ::= x")),
    ],
)
def test_every_way_to_constrain_the_output(given_fields: dict[str, Any], guided: Guided | None) -> None:
    _, asking = parse_chat({"model": "demo", "messages": MESSAGES, **given_fields}, DispatchHints())
    assert asking.request.sampling.guided == guided


def test_a_structural_tag_is_kept_as_json() -> None:
    tag = {
        "type": "structural_tag",
        "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
        "triggers": ["<f"],
    }
    _, asking = parse_chat({"model": "demo", "messages": MESSAGES, "response_format": tag}, DispatchHints())
    assert asking.request.sampling.guided is not None
    assert json.loads(asking.request.sampling.guided.structural_tag or "") == tag
