"""The input of a custom tool's call, out of arguments that come in any pieces."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.http.responses.custom_input import CustomInput

CHARACTERS = st.sampled_from(["a", '"', "\\", "\n", "\u00e9", "\U0001f600", "u", "0", "{", "\0"])
SEPARATORS = st.sampled_from([None, (", ", ": "), (",", ":")])
CUTS = st.lists(st.integers(0, 80), max_size=8)


def read(arguments: str, cuts: Sequence[int] = ()) -> str:
    """The input, where the arguments come in pieces that end at `cuts`."""
    reader = CustomInput()
    ends = [*sorted(min(cut, len(arguments)) for cut in cuts), len(arguments)]
    starts = [0, *ends]
    pieces = [arguments[start:end] for start, end in zip(starts, ends, strict=False)]
    return "".join([*map(reader.add, pieces), reader.end()])


@given(
    st.lists(CHARACTERS, max_size=12).map("".join),
    CUTS,
    st.booleans(),
    st.sampled_from([None, (", ", ": "), (",", ":")]),
)
def test_it_is_the_text(text: str, cuts: list[int], is_ascii: bool, separators: tuple[str, str] | None) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=is_ascii, separators=separators)
    assert read(arguments, cuts) == text


@given(st.text('{"input": \\ud83e0x}', max_size=40) | st.text(max_size=20), CUTS)
def test_pieces_make_no_difference(arguments: str, cuts: list[int]) -> None:
    for text in (arguments, '{"input": "' + arguments):
        assert read(text, cuts) == read(text)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("", ""),
        ("ls -l", "ls -l"),
        ('{"command": "ls"}', '{"command": "ls"}'),
        ('{"input": 7}', '{"input": 7}'),
        ('{"inp', '{"inp'),
        ('{"input": "ls', "ls"),
        ('{"input": "ls\\', "ls\\"),
        ('{"input": "ls", "x": 1}', "ls"),
        ('{"input": "\\x"}', "\\x"),
        (" " * 100 + '{"input": "ls"}', " " * 100 + '{"input": "ls"}'),
    ],
)
def test_what_is_something_else_is_all_of_it(arguments: str, found: str) -> None:
    assert read(arguments) == found
