"""Requests without a stream: what is wrong is refused, by the name of the field."""

from typing import Any

import pytest
from pydantic import ValidationError

from engines.call_requests import DetokenizeRequest, EmbedRequest, TokenizeRequest


@pytest.mark.parametrize("inputs", [[], [[]], ["a", [1]], [[-1]]])
def test_wrong_embedding_inputs_are_named(inputs: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        EmbedRequest(model="model", inputs=inputs)
    assert all(place[0] == "inputs" for place in [error["loc"] for error in caught.value.errors()])


@pytest.mark.parametrize("fields", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}])
def test_a_tokenize_request_has_one_prompt(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of prompt, messages"):
        TokenizeRequest(model="model", **fields)


def test_sizes() -> None:
    assert DetokenizeRequest(model="m", token_ids=[1, 2]).size == 8
    assert EmbedRequest(model="m", inputs=["abc", "de"]).size == 5
    assert EmbedRequest(model="m", inputs=[[1], [2, 3]]).size == 12
    assert TokenizeRequest(model="m", prompt="abc").size == 3
    messages = [{"role": "user", "content": "abc"}, {"role": "user", "content": [{"type": "text", "text": "d"}]}]
    assert TokenizeRequest.model_validate({"model": "m", "messages": messages}).size == 64 + 3 + 64 + 1
