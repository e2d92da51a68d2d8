from hypothesis import given
from hypothesis import strategies as st

from actors.channel.frames import Frame, News, Pulse, decode, encode
from tests.actors.strategies import items, loads

numbers = st.integers(1, 2**40)
bodies = st.none() | st.lists(st.integers() | st.text(max_size=4), max_size=3)
frames = st.builds(
    Frame,
    st.integers(1, 2**40),
    st.lists(st.tuples(numbers, items), max_size=20),
    loads,
    st.lists(st.builds(News, st.text(max_size=8), bodies), max_size=3),
    st.none()
    | st.builds(
        Pulse,
        st.none() | st.integers(0),
        st.booleans(),
        st.lists(st.tuples(numbers, st.integers(0), st.booleans()), max_size=3),
    ),
)


@given(frames)
def test_a_frame_survives_the_wire(frame: Frame) -> None:
    assert decode(encode(frame)) == frame
