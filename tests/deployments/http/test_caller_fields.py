"""Errors of engines name fields as the caller wrote them."""

from typing import Any

import pytest

from deployments.http.caller_fields import caller_field


@pytest.mark.parametrize(
    ("param", "body", "named"),
    [
        (None, {}, None),
        ("messages", {"messages": []}, "messages"),
        ("sampling.max_tokens", {"max_tokens": 10}, "max_tokens"),
        ("sampling.max_tokens", {"max_completion_tokens": 10}, "max_completion_tokens"),
        ("sampling.logprobs", {"logprobs": True, "top_logprobs": 3}, "logprobs"),
        ("prompt_token_ids", {"prompt": [1, 2]}, "prompt"),
        ("inputs", {"input": "text"}, "input"),
        ("sampling.guided.regex", {"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ("sampling.guided.regex", {"guided_regex": "("}, "guided_regex"),
        (
            "sampling.guided.json_schema",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "y"}}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_names_what_the_caller_wrote(param: str | None, body: dict[str, Any], named: str | None) -> None:
    assert caller_field(param, body) == named
