"""Events: frozen values that survive pickling, cheaply."""

import pickle
from dataclasses import FrozenInstanceError
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.events import Delta, Event, Finished, Started, TextDelta, TokenLogprob, Usage

_numbers = (st.text(max_size=8), st.integers(0, 2**31 - 1), st.floats(max_value=0), st.binary(max_size=8))
_leaves = st.builds(TokenLogprob, *_numbers)
st.register_type_strategy(
    TokenLogprob, st.builds(TokenLogprob, *_numbers, st.lists(_leaves, max_size=3).map(tuple))
)  # Its own type is recursive, of any depth; a real one has two levels.

VALUES = [*get_args(Delta), Started, Finished, Usage, TokenLogprob]


@pytest.mark.parametrize("cls", VALUES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_a_value_survives_pickling(cls: type, data: st.DataObject) -> None:
    value = data.draw(st.from_type(cls))
    again = pickle.loads(pickle.dumps(value))
    assert type(again) is cls
    # By text: not-a-number is not equal to itself.
    assert repr(again) == repr(value)


def test_every_event_is_covered() -> None:
    assert set(get_args(Event)) <= set(VALUES)


def test_a_value_cannot_be_changed() -> None:
    delta = TextDelta("a")
    with pytest.raises(FrozenInstanceError):
        delta.text = "b"  # type: ignore[misc]
    assert not hasattr(delta, "__dict__")


def test_a_pickled_delta_is_small() -> None:
    assert len(pickle.dumps(TextDelta(" word", 0, (1234,)), protocol=5)) < 100


def test_the_reason_of_a_stream_is_that_of_its_first_choice() -> None:
    assert Finished(("length", "stop"), Usage(), "engine").reason == "length"
