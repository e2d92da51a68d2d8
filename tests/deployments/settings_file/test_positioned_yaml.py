import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deployments.settings_file.positioned_yaml import parse

keys = st.text(alphabet="abcxyz_", min_size=1, max_size=6)
scalars = st.integers(-1000, 1000) | st.booleans() | keys | st.none()
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=12
)


def test_lines_are_those_of_keys_and_items() -> None:
    document = parse("a: 1\nb:\n  - c: 2\n    d: 3\n  -\n    e: 4\n")
    assert document.lines[("a",)] == 1
    assert document.lines[("b", 0, "c")] == 3
    assert document.lines[("b", 0, "d")] == 4
    assert document.lines[("b", 1, "e")] == 6


def test_a_path_that_is_not_there_has_the_line_of_the_nearest_above() -> None:
    document = parse("a: 1\nb:\n  - c: 2\n")
    assert document.line(("b", 0, "missing", 7)) == 3


def test_a_key_that_is_there_twice_is_a_problem() -> None:
    document = parse("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [(line, path) for line, path, _ in document.problems] == [(2, ("b", "c")), (3, ("a",))]


@pytest.mark.parametrize("word", ["off", "on", "no", "yes", "n", "Y"])
def test_words_are_words_and_not_booleans(word: str) -> None:
    assert parse(f"mode: {word}").value == {"mode": word}


def test_true_and_false_are_booleans() -> None:
    assert parse("[true, False]").value == [True, False]


def test_merge_keys_work() -> None:
    assert parse("base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}").value["other"] == {"x": 1, "y": 3}


def test_an_alias_that_contains_itself_is_an_error() -> None:
    with pytest.raises(yaml.YAMLError, match="contains itself"):
        parse("a: &a\n  - *a\n")


def test_two_documents_are_an_error() -> None:
    with pytest.raises(yaml.YAMLError):
        parse("a: 1\n---\nb: 2\n")


@given(documents)
def test_values_are_what_was_written(value: object) -> None:
    assert parse(yaml.safe_dump(value)).value == value


@given(st.text(max_size=60))
def test_any_text_is_a_document_or_a_yaml_error(text: str) -> None:
    with contextlib.suppress(yaml.YAMLError):
        parse(text)


@pytest.mark.parametrize("text", ["{[a]: 1}", "!!int x", "[" * 5000, "!!float {}", "!!python/object:x {}", "\x00"])
def test_what_cannot_be_read_is_a_yaml_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse(text)


def test_dates_are_text() -> None:
    assert parse("[2020-01-02, 2020-13-45]").value == ["2020-01-02", "2020-13-45"]
