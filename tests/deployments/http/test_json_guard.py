"""Whatever bytes come: a plain JSON object, or a short error."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.http.error_body import error_json
from deployments.http.json_guard import parse_object
from engines.errors import InvalidRequest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)


@given(OBJECTS, st.booleans())
def test_a_plain_object_comes_through(value: dict[str, Any], ascii: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii).encode(), 100) == value


@given(st.binary() | st.text().map(str.encode) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_a_short_error(body: bytes) -> None:
    try:
        value = parse_object(body, 100)
    except InvalidRequest as error:
        assert len(error_json(error)) < 1000
    else:
        assert isinstance(value, dict)


@given(st.text(alphabet='{}[]":,\\u019d8dD0abceENnalInfity. -+', max_size=60))
def test_what_looks_like_json_is_plain_or_refused(body: str) -> None:
    try:
        value = parse_object(body.encode(), 5)
    except InvalidRequest:
        return
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")


@given(st.integers(1, 300), st.integers(1, 200))
def test_depth_is_counted_exactly(depth: int, limit: int) -> None:
    body = b'{"a":' * depth + b"1" + b"}" * depth
    if depth <= limit:
        assert parse_object(body, limit)
    else:
        with pytest.raises(InvalidRequest, match="levels deep"):
            parse_object(body, limit)


def test_brackets_inside_of_text_are_no_depth() -> None:
    assert parse_object(json.dumps({"a": "[" * 10_000}).encode(), 3) == {"a": "[" * 10_000}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"a": {"b": ["x", "\ud800"]}}, "a.b[1]"),
        ({"a": [{"c": "\udfff"}]}, "a[0].c"),
    ],
)
def test_half_a_pair_is_found(body: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_object(json.dumps(body).encode(), 100)
    assert caught.value.param == param


def test_finite_means_finite() -> None:
    assert math.isclose(parse_object(b'{"a": 1e308}', 9)["a"], 1e308)
    with pytest.raises(InvalidRequest, match="too large"):
        parse_object(b'{"a": [1e400]}', 9)
