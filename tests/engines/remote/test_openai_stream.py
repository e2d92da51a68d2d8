"""Streams of OpenAI's API say what they say, however they are cut."""

import json

import pytest

from engines.errors import EngineFault, InstanceLost, PenstockError, RateLimited, StreamIncomplete
from engines.events import Event, Finished, TextDelta, ToolCallArgumentsDelta, ToolCallFinished, ToolCallStarted
from engines.remote.sse import MalformedStream
from engines.requests import Sampling
from tests.engines.remote.wire import DONE, REASONING, STREAMS, call, chunk, event, finished, read, request


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_cut_anywhere_gives_the_same_events(what: str) -> None:
    data, events = STREAMS[what]
    assert read(data) == events
    for cut in range(1, len(data)):
        assert read(data[:cut], data[cut:]) == events, f"cut at {cut}"


def test_hidden_reasoning_is_not_told() -> None:
    events = read(REASONING, request=request(include_reasoning=False))
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Four."]
    assert len(events) == 2


def test_choices_are_told_apart_and_the_end_waits_for_all() -> None:
    stream = chunk({"content": "a"}) + chunk({"content": "b"}, index=1) + chunk(reason="stop", index=1)
    two = request(sampling=Sampling(n=2))
    assert not isinstance(read(stream, request=two)[-1], Finished)
    assert read(stream, chunk(reason="length"), request=two)[-1].reasons == ("length", "stop")  # type: ignore[union-attr]
    with pytest.raises(MalformedStream):
        read(chunk({"content": "c"}, index=2), request=two)


def test_the_end_mark_alone_ends_an_answer_that_said_something() -> None:
    assert read(chunk({"content": "a"}), DONE) == [TextDelta("a"), finished("stop")]
    with pytest.raises(StreamIncomplete):
        read(DONE)


def test_token_ids_and_logprobs_travel_with_the_text() -> None:
    entry = {"token": "a", "logprob": -0.5, "bytes": [97]}
    other = {"token": "b", "logprob": -2.0, "bytes": [98]}
    choice = {
        "index": 0,
        "delta": {"content": "a"},
        "logprobs": {"content": [{**entry, "top_logprobs": [other, entry]}]},
        "token_ids": [7],
        "finish_reason": None,
    }
    asked = request(sampling=Sampling(logprobs=2))
    (delta,) = read(event({"choices": [choice]}), request=asked)
    assert isinstance(delta, TextDelta) and delta.token_ids == (7,) and delta.logprobs is not None
    (token,) = delta.logprobs
    assert (token.token, token.token_id, token.logprob, token.utf8) == ("a", 7, -0.5, b"a")
    assert [(top.token, top.token_id) for top in token.top] == [("a", 7), ("b", -1)]


def test_a_text_completion_is_read_with_its_logprobs() -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5, "b": -1.0}], "text_offset": [0]}
    choice = {"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": "length"}
    asked = request(messages=None, prompt="x", sampling=Sampling(logprobs=1))
    delta, end = read(event({"choices": [choice]}), request=asked)
    assert isinstance(delta, TextDelta) and delta.text == "a" and delta.logprobs is not None
    assert [top.token for top in delta.logprobs[0].top] == ["a"]
    assert isinstance(end, Finished) and end.reasons == ("length",)


def test_arguments_that_come_before_the_name_wait_for_it() -> None:
    pieces = [{"index": 0, "id": "i", "function": {"arguments": "{"}}, {"index": 0, "function": {"name": "f"}}]
    events = read(*(chunk({"tool_calls": [piece]}) for piece in pieces), chunk(reason="tool_calls"))
    assert [type(event).__name__ for event in events] == [
        "ToolCallStarted",
        "ToolCallArgumentsDelta",
        "ToolCallFinished",
        "Finished",
    ]


def test_a_call_that_was_cut_off_is_not_finished() -> None:
    calls = [chunk(call(0, id="a", name="f", arguments="{}")), chunk(call(1, id="b", name="g", arguments='{"x'))]
    ended = [event.call for event in read(*calls, chunk(reason="length")) if isinstance(event, ToolCallFinished)]
    assert ended == [0]
    ended = [event.call for event in read(*calls, chunk(reason="tool_calls")) if isinstance(event, ToolCallFinished)]
    assert ended == [0, 1], "what the server calls complete is complete"


def test_a_call_without_arguments_has_an_empty_object() -> None:
    events = read(chunk(call(0, id="a", name="f", arguments="")), chunk(reason="tool_calls"))
    assert events[1] == ToolCallArgumentsDelta(0, "{}")


def test_pieces_without_an_index_belong_to_the_call_of_their_id_or_the_last_one() -> None:
    pieces = [
        {"id": "a", "function": {"name": "f", "arguments": "["}},
        {"function": {"arguments": "1"}},
        {"id": "b", "function": {"name": "g", "arguments": "2"}},
        {"id": "a", "function": {"arguments": "]"}},
    ]
    events = read(*(chunk({"tool_calls": [piece]}) for piece in pieces))
    deltas = [(event.call, event.arguments) for event in events if isinstance(event, ToolCallArgumentsDelta)]
    assert deltas == [(0, "["), (0, "1"), (1, "2"), (0, "]")]


def test_a_call_without_an_id_gets_one() -> None:
    started = read(chunk({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}), DONE)[0]
    assert isinstance(started, ToolCallStarted) and started.id


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"error": {"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}, RateLimited),
        ({"error": {"message": "boom", "type": "server_error", "code": None}}, InstanceLost),
        ({"error": {"message": "boom", "code": 503}}, PenstockError),
        ({"error": {"message": "no", "code": "engine_fault"}}, EngineFault),
        ({"error": "out of memory"}, InstanceLost),
        ({"object": "error", "message": "boom", "code": 500}, InstanceLost),
    ],
)
def test_an_error_in_the_stream_is_an_error(error: object, expected: type[PenstockError]) -> None:
    with pytest.raises(expected):
        read(chunk({"content": "a"}), event(error))


@pytest.mark.parametrize("data", [b"{", b"[1, 2]", b"7", b'"text"', b"NULL"])
def test_what_is_no_chunk_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedStream):
        read(b"data: " + data + b"\n\n")


@pytest.mark.parametrize(
    "theirs",
    [
        {"choices": None},
        {"choices": [None]},
        {"choices": [{"index": "x", "delta": 7}]},
        {"choices": [{"delta": {"content": 5, "tool_calls": [None]}}], "usage": {"prompt_tokens": "many"}},
        {"choices": [{"delta": {"tool_calls": [{"index": {}, "function": []}]}}]},
    ],
    ids=json.dumps,
)
def test_fields_of_other_types_break_nothing(theirs: object) -> None:
    try:
        events: list[Event] = read(event(theirs))
    except MalformedStream:
        return
    assert not events


def test_parts_of_other_types_are_not_lost_in_silence() -> None:
    with pytest.raises(MalformedStream):
        read(chunk({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}))


def test_an_answer_that_the_server_gave_up_is_not_finished() -> None:
    with pytest.raises(InstanceLost):
        read(chunk({"content": "a"}), chunk(reason="abort"))
