"""The parser of server-sent events: any cut gives the same, and nothing grows without end."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.remote.sse import MalformedStream, ServerSentEvent, SSEParser

ENDS = st.sampled_from(["\n", "\r", "\r\n"])
WORDS = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[ServerSentEvent]]:
    """A stream, and the events in it."""
    text, events = "", []
    for _ in range(draw(st.integers(0, 4))):
        end = draw(ENDS)
        data = draw(st.lists(WORDS, min_size=1, max_size=3))
        type = draw(st.sampled_from(["", "error", "ping"]))
        lines = [f"data:{' ' if line.startswith(' ') or draw(st.booleans()) else ''}{line}" for line in data]
        extra = [f"event: {type}"] if type else []
        extra += draw(st.lists(st.sampled_from([": keep-alive", ":", "id: 7", "retry: 10", "nonsense"]), max_size=2))
        text += "".join(line + end for line in (*extra, *lines, ""))
        events.append(ServerSentEvent(type or "message", "\n".join(data)))
    return text.encode(), events


def parse(*pieces: bytes) -> list[ServerSentEvent]:
    parser = SSEParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@given(stream=streams(), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_any_pieces_of_a_stream_give_its_events(stream: tuple[bytes, list[ServerSentEvent]], cuts: list[int]) -> None:
    data, events = stream
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    assert parse(*(data[first:last] for first, last in pairwise(places))) == events
    assert parse(*(data[at : at + 1] for at in range(len(data)))) == events


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_anything_is_read_or_refused(pieces: list[bytes]) -> None:
    try:
        parse(*pieces)
    except MalformedStream:
        return


def test_a_byte_order_mark_is_no_part_of_the_first_field() -> None:
    assert parse(b"\xef\xbb\xbfdata: a\n\n") == [ServerSentEvent("message", "a")]


def test_an_event_that_is_cut_off_is_none() -> None:
    assert parse(b"data: a\n\ndata: b\n") == [ServerSentEvent("message", "a")]


@pytest.mark.parametrize(
    "pieces",
    [[b"data: ", *[b"x" * 10] * 10], [b"data: " + b"x" * 100 + b"\n"], [b"data: 123456789\n"] * 10],
    ids=["a line without an end", "a long line", "an event without an end"],
)
def test_what_is_too_large_is_refused(pieces: list[bytes]) -> None:
    parser = SSEParser(64)
    with pytest.raises(MalformedStream):
        for piece in pieces:
            parser.feed(piece)


def test_what_is_not_utf8_is_refused() -> None:
    with pytest.raises(MalformedStream):
        parse(b"data: \xff\xfe\n\n")
