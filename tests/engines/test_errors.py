"""The error tree: what is drawn is what is, and errors survive pickling whole."""

import inspect
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import errors
from engines.errors import (
    ContextOverflow,
    InstanceNotFound,
    ModelNotFound,
    PenstockError,
    ProviderRefused,
    QueueTimeout,
    RequestTooLarge,
    Timeout,
)

CLASSES = [
    cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, PenstockError)
]  # fmt: skip

texts = st.text(max_size=40)
common = {"param": st.none() | texts, "retry_after_s": st.none() | st.floats(0, 1e6), "instance": st.none() | texts}


def made(cls: type[PenstockError]) -> st.SearchStrategy[PenstockError]:
    """Errors of a class, with every field set to anything."""
    if cls is ContextOverflow:
        sizes = st.integers(1, 10**6)
        return st.builds(cls, texts, context_length=sizes, prompt_tokens=st.none() | sizes, param=st.none() | texts)
    if cls is ModelNotFound:
        return st.builds(cls, texts, st.lists(texts).map(tuple))
    if cls is InstanceNotFound:
        return st.builds(cls, texts, texts)
    if cls is RequestTooLarge:
        return st.builds(cls, st.none() | st.integers(0, 2**40))
    if cls is ProviderRefused:
        return st.builds(cls, texts, reason=st.sampled_from(["unauthorized", "forbidden", "unknown_model"]))
    if cls is Timeout:
        return st.builds(cls, st.sampled_from(["first_token", "between_tokens", "total", "stall"]), st.floats(0, 1e6))
    return st.builds(cls, texts, **common)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_an_error_survives_pickling_with_all_its_fields(cls: type[PenstockError], data: st.DataObject) -> None:
    error = data.draw(made(cls))
    error.at("instance-7")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert again == error
    assert vars(again) == vars(error)
    assert str(again) == str(error) == error.message


def test_the_drawing_shows_every_class_with_its_status() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d{3})", errors.__doc__ or ""))
    assert drawn == {cls.__name__: str(cls.status) for cls in CLASSES if cls is not PenstockError}


def test_the_drawing_nests_as_the_classes_do() -> None:
    parents: list[str] = ["PenstockError"]
    for line in (errors.__doc__ or "").splitlines():
        node = re.search(r"[├└]── (\w+)", line)
        if node is not None:
            depth = (node.start() - 4) // 4 + 1
            parents[depth:] = [node[1]]
            assert getattr(errors, node[1]).__mro__[1].__name__ == parents[depth - 1]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_the_request_did_wrong_is_not_retried_elsewhere(cls: type[PenstockError]) -> None:
    if 400 <= cls.status < 429:
        assert not cls.retryable
    if cls.status in (429, 502, 503, 504):
        assert cls.retryable or cls in (QueueTimeout, ProviderRefused)


def test_the_first_instance_named_stays() -> None:
    error = errors.QueueFull("Full.").at("first")
    assert error.at("second") is error
    assert error.instance == "first"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (errors.QueueFull("a"), errors.QueueFull("a"), True),
        (errors.QueueFull("a"), errors.QueueFull("b"), False),
        (errors.QueueFull("a"), errors.RateLimited("a"), False),
        (Timeout("total", 1.0), Timeout("total", 2.0), False),
    ],
)
def test_errors_are_equal_when_all_their_fields_are(one: Any, other: Any, equal: bool) -> None:
    assert (one == other) is equal


def test_a_very_long_model_name_is_cut() -> None:
    assert len(ModelNotFound("x" * 10_000, ()).message) < 400
