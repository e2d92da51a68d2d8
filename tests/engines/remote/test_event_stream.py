"""AWS's event streams: any cut gives the same, and nothing that is wrong is taken."""

import struct
import zlib
from importlib import import_module
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.remote.event_stream import EventStreamDecoder, EventStreamMessage
from engines.remote.sse import MalformedStream
from tests.engines.remote.aws import frame, header

NAMES = st.text("abc:-", min_size=1, max_size=8)
MESSAGES = st.lists(st.tuples(st.dictionaries(NAMES, st.text(max_size=12), max_size=3), st.binary(max_size=40)))
ALL_TYPES = (
    b"\x01a\x00"
    b"\x01b\x01"
    b"\x01c\x02\x07"
    b"\x01d\x03\x00\x07"
    b"\x01e\x04\x00\x00\x00\x07"
    b"\x01f\x05\x00\x00\x00\x00\x00\x00\x00\x07"
    b"\x01g\x06\x00\x02xy"
    b"\x01h\x07\x00\x02xy"
    b"\x01i\x08\x00\x00\x00\x00\x00\x00\x00\x07"
    b"\x01j\x09\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
    b"\x01k\x07\x00\x01z"
)


def encoded(headers: dict[str, str], payload: bytes) -> bytes:
    return frame(b"".join(header(name, value) for name, value in headers.items()), payload)


def decode(*pieces: bytes) -> list[EventStreamMessage]:
    decoder = EventStreamDecoder()
    return [message for piece in pieces for message in decoder.feed(piece)]


@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 300), max_size=5))
def test_any_pieces_give_the_messages(messages: list[tuple[dict[str, str], bytes]], cuts: list[int]) -> None:
    data = b"".join(encoded(*message) for message in messages)
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    assert decode(*(data[first:last] for first, last in pairwise(places))) == messages
    assert decode(*(data[at : at + 1] for at in range(len(data)))) == messages


def test_headers_of_every_type_are_passed_over() -> None:
    assert decode(frame(ALL_TYPES, b"x")) == [EventStreamMessage({"h": "xy", "k": "z"}, b"x")]


@given(messages=MESSAGES)
def test_botocore_reads_the_same(messages: list[tuple[dict[str, str], bytes]]) -> None:
    pytest.importorskip("botocore")
    buffer = import_module("botocore.eventstream").EventStreamBuffer()
    data = b"".join(encoded(*message) for message in [*messages, ({"a": "b"}, b"")]) + frame(ALL_TYPES, b"x")
    buffer.add_data(data)
    theirs = [({k: v for k, v in m.headers.items() if isinstance(v, str)}, m.payload) for m in buffer]
    assert decode(data) == theirs


def test_no_byte_of_a_message_may_be_another() -> None:
    data = encoded({":message-type": "event"}, b'{"a": 1}')
    for at in range(len(data)):
        wrong = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(MalformedStream):
            decode(wrong)


def prelude(length: int, headers: int) -> bytes:
    start = struct.pack(">II", length, headers)
    return start + struct.pack(">I", zlib.crc32(start))


@pytest.mark.parametrize(
    "data",
    [
        prelude(0, 0),
        prelude(15, 0),
        prelude(20, 5),
        prelude(2**31, 0),
        frame(b"\x05abc", b""),
        frame(b"\x01a\x07\x00\x09xy", b""),
        frame(b"\x01a\x07\x00", b""),
        frame(b"\x01a\x0a", b""),
        frame(b"\x01\xff\x00", b""),
        frame(b"\x01a\x07\x00\x01\xff", b""),
        b"data: {} is no event stream\n\n",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedStream):
        decode(data)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_anything_is_read_or_refused(pieces: list[bytes]) -> None:
    try:
        decode(*pieces)
    except MalformedStream:
        return


@given(st.binary(max_size=60))
def test_any_headers_are_read_or_refused(headers: bytes) -> None:
    try:
        decode(frame(headers, b""))
    except MalformedStream:
        return
