"""Large JSON in slices: the same values as in one piece, and the same is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.remote.json_slices import loads_in_slices

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(value=VALUES, indent=st.sampled_from([None, 1]), mark=st.sampled_from(["", "\ufeff", " \r\n\t"]))
def test_it_is_what_json_makes_of_it(value: Any, indent: int | None, mark: str) -> None:
    assert loads_in_slices((mark + json.dumps(value, indent=indent) + "\n").encode()) == value


@given(text=st.text('{}[],:"a1 \n', max_size=12))
def test_what_is_no_json_is_refused(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            loads_in_slices(text.encode())
    else:
        assert loads_in_slices(text.encode()) == expected


@pytest.mark.parametrize("data", [b"", b"\xff{}", b'{"a": [1, 2', b'{"a": [1 2]}', b'{"a" 1}', b'{"a": 1,}', b"{} {}"])
def test_what_is_cut_off_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads_in_slices(data)
