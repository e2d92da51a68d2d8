import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.answer_reader import AnswerReader, BadAnswer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(**chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields}], usage=None)


def usage(tokens: int) -> bytes:
    return event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens})


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


ROLE = delta(role="assistant", content="")
ANSWER = (ROLE, delta(content="a"), delta(content='b "usage"'), delta(content="ü"), usage(3), DONE)


def read(*data: bytes) -> AnswerReader:
    reader = AnswerReader()
    for time, piece in enumerate(data):
        reader.feed(piece, float(time))
    return reader


@given(st.data())
def test_any_cut_of_the_bytes_reads_the_same(data: st.DataObject) -> None:
    body = b"".join(ANSWER)
    chunk_cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=8)))
    wire = HEAD + chunked(*_cut(body, chunk_cuts))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=12)))
    reader = read(*_cut(wire, cuts))
    assert reader.done
    assert reader.completion_tokens == 3
    assert reader.prompt_tokens == 7
    assert reader.events == len(ANSWER)
    assert reader.first_s is not None
    reader.check_tokens(3)


def _cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *at, len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def test_the_first_output_is_the_first_text_and_not_the_role() -> None:
    wire = [HEAD, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in ANSWER), b"0\r\n\r\n"]
    reader = read(*wire)
    assert reader.first_s == 2.0
    assert reader.arrivals_s == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "content"])
def test_reasoning_is_output(field: str) -> None:
    reader = read(HEAD + chunked(delta(**{field: "x"}), usage(1), DONE))
    assert reader.first_s == 0.0


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nno", "429"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "chunks"),
        (HEAD + chunked(delta(content="a"), event(error={"message": "lost"}), DONE), "lost"),
        (HEAD + chunked(delta(content="a"), usage(1)), r"without \[DONE\]"),
        (HEAD + chunked(delta(content="a"), DONE, usage(1)), r"after \[DONE\]"),
        (HEAD + chunked(delta(content="a"), usage(1), DONE, b"data: {"), "inside an event"),
        (HEAD + chunked(delta(content="a"), usage(1), DONE) + b"HTTP", "inside an event"),
        (HEAD + b"zz\r\n", "size of a chunk"),
    ],
)
def test_a_wrong_answer_is_refused(wire: bytes, reason: str) -> None:
    with pytest.raises(BadAnswer, match=reason):
        read(wire)


def test_bytes_after_the_answer_are_refused() -> None:
    with pytest.raises(BadAnswer, match="more than its answer"):
        read(HEAD + chunked(*ANSWER), b"x")


def test_another_number_of_tokens_is_refused() -> None:
    with pytest.raises(BadAnswer, match="3 tokens"):
        read(HEAD + chunked(*ANSWER)).check_tokens(4)


def test_an_answer_without_output_is_refused() -> None:
    with pytest.raises(BadAnswer, match="no output"):
        read(HEAD + chunked(ROLE, usage(3), DONE)).check_tokens(3)
