"""What is too large or nested too deeply is refused before anything compiles it, in no time whatever it is."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.vllm.constraints import (
    MAX_BYTES,
    MAX_ENUM,
    MAX_NESTING,
    MAX_NODES,
    MAX_PROPERTIES,
    MAX_REGEX_BYTES,
    Refused,
    check_choice,
    check_schema,
    check_tag,
    check_text,
    holds_grammar,
)

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5)
)


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"items": value} if depth % 2 else [value]
    return value


def size(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(size, inner))


@given(values)
def test_ordinary_values_pass(value: Any) -> None:
    check_schema(value)
    check_tag(json.dumps({"type": "structural_tag", "format": value}))


@given(st.integers(1, 3 * MAX_NESTING))
def test_nesting(depth: int) -> None:
    if depth <= MAX_NESTING:
        check_schema(nested(depth))
    else:
        with pytest.raises(Refused, match="deeper than 64"):
            check_schema(nested(depth))


@given(st.lists(st.integers(0, MAX_ENUM), min_size=1, max_size=4))
def test_enums_count_together(lengths: list[int]) -> None:
    schema = {"anyOf": [{"enum": list(range(length))} for length in lengths]}
    if sum(lengths) <= MAX_ENUM:
        check_schema(schema)
    else:
        with pytest.raises(Refused, match="enums have more than 2,000"):
            check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"enum": [f"value {number}" for number in range(100_000)]}, "enums"),
        ({"properties": {f"p{number}": {} for number in range(MAX_PROPERTIES + 1)}}, "properties"),
        ({"anyOf": [{}] * MAX_NODES}, "values"),
        ({"const": "x" * (MAX_BYTES + 1)}, "bytes"),
        ({"properties": {"k" * (MAX_BYTES + 1): {}}}, "bytes"),
        ({f"k{number}": 0 for number in range(1_000_000)}, "values"),
        ({"anyOf": [[[]]] * 1_000_000}, "values"),
        ({"anyOf": [{"pattern": "a"}] * 33}, "patterns"),
        ({"patternProperties": {str(number): {} for number in range(33)}}, "patterns"),
    ],
)
def test_what_is_too_large_is_refused_in_no_time(schema: Any, why: str) -> None:
    began_s = time.thread_time()
    with pytest.raises(Refused, match=why):
        check_schema(schema)
    assert time.thread_time() - began_s < 0.1


def test_the_limits_themselves_pass() -> None:
    check_schema({"properties": {f"p{number}": {} for number in range(MAX_PROPERTIES)}})
    check_choice(["x"] * MAX_ENUM)
    check_text("regex", "a" * MAX_REGEX_BYTES)
    check_text("grammar", "a" * MAX_BYTES)


def test_texts_and_choices_have_limits() -> None:
    with pytest.raises(Refused, match="2,001 choices"):
        check_choice(["x"] * (MAX_ENUM + 1))
    with pytest.raises(Refused, match="bytes"):
        check_choice(["x" * MAX_BYTES, "y"])
    with pytest.raises(Refused, match="bytes"):
        check_text("regex", "a" * (MAX_REGEX_BYTES + 1))
    with pytest.raises(Refused, match="bytes"):
        check_text("grammar", "\u20ac" * (MAX_BYTES // 2))
    with pytest.raises(Refused, match="NUL"):
        check_text("regex", "a\x00")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '"x"'])
def test_a_structural_tag_is_a_json_object(text: str) -> None:
    with pytest.raises(Refused):
        check_tag(text)


@given(values, st.booleans())
def test_a_grammar_inside_of_a_tag_is_found_wherever_it_is(value: Any, has: bool) -> None:
    tag = {"format": {"elements": [value, {"type": "grammar", "grammar": 'root ::= "a"'} if has else {}]}}
    assert holds_grammar(tag) is has
