"""What may be asked of a pooling model, and what it answers with."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engines.errors import InvalidRequest
from engines.pooling_requests import (
    MAX_PAIR_BYTES,
    MAX_POOLED_BYTES,
    Pooled,
    PoolingRequest,
    ScoreRequest,
    Scores,
    check_pooled_size,
)


def asking(**fields: Any) -> ScoreRequest:
    return ScoreRequest.model_validate({"model": "m", "queries": ["q"], "documents": ["a", "b"], **fields})


def test_a_query_goes_with_every_document_or_with_its_own() -> None:
    assert list(asking().pairs) == [("q", "a"), ("q", "b")]
    assert list(asking(queries=["q", "r"]).pairs) == [("q", "a"), ("r", "b")]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"queries": []}, "queries"),
        ({"documents": []}, "documents"),
        ({"queries": ["a", "b", "c"]}, "documents"),
        ({"queries": ["a"] * 2049}, "queries"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"documents": ["a", 1]}, "documents"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"max_tokens_per_query": -1}, "max_tokens_per_query"),
        ({"max_tokens_per_doc": -1}, "max_tokens_per_doc"),
        ({"instruction": "x" * 16_385}, "instruction"),
        # A query counts once for each document.
        ({"queries": ["q" * 2**20], "documents": ["a"] * 32}, "documents"),
        ({"instruction": "i" * 16_384, "documents": ["a"] * 2048}, "documents"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError) as caught:
        asking(**fields)
    assert {error["loc"][0] for error in caught.value.errors()} == {wrong}


@given(st.lists(st.text(max_size=9), min_size=1, max_size=9), st.booleans(), st.text(max_size=5))
def test_the_size_is_that_of_all_pairs(texts: list[str], is_one: bool, instruction: str) -> None:
    request = asking(queries=texts[:1] if is_one else texts, documents=texts, instruction=instruction)
    assert request.size == sum(len(query) + len(text) + len(instruction) + 8 for query, text in request.pairs)
    assert request.size <= MAX_PAIR_BYTES


def test_scores_are_whole_floats() -> None:
    scores = Scores(values=struct.pack("<2f", 0.5, -1.0), prompt_tokens=1, engine="e")
    assert (len(scores), scores.floats) == (2, (0.5, -1.0))
    with pytest.raises(ValidationError):
        Scores(values=b"abc", prompt_tokens=1, engine="e")


def test_pooled_rows_come_by_input() -> None:
    values = struct.pack("<6f", *range(6))
    made = Pooled(values=values, columns=2, rows=[2, 1], per_token=True, prompt_tokens=3, engine="e")
    assert [list(made.floats(packed)) for packed in made.packed()] == [[(0, 1), (2, 3)], [(4, 5)]]
    with pytest.raises(ValidationError):
        Pooled(values=values, columns=2, rows=[2, 2], per_token=True, prompt_tokens=3, engine="e")


def test_the_size_of_pooling_is_that_of_its_inputs() -> None:
    assert PoolingRequest(model="m", inputs=["abc", "d"]).size == 4
    assert PoolingRequest(model="m", inputs=[[1], [2, 3]]).size == 12


def test_an_answer_that_would_be_too_large_is_refused() -> None:
    check_pooled_size(MAX_POOLED_BYTES // 4, 1)
    with pytest.raises(InvalidRequest) as caught:
        check_pooled_size(MAX_POOLED_BYTES // 4 + 1, 1)
    assert caught.value.param == "inputs"
