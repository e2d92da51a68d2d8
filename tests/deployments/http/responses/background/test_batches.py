"""Whoever is told the batches of a response says the same, wherever one ends and another begins."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deployments.database.kept_responses import Size
from deployments.http.responses.background.batches import Batch, Told, joined
from deployments.http.responses.background.request import BackgroundRequest
from deployments.http.responses.background.told import Head, ToldResponse
from deployments.http.responses.keeping import Place
from deployments.http.responses.reasoning import Thought
from deployments.http.server.asking import Asking
from deployments.http.server.names import Names
from engines.events import (
    Finished,
    ReasoningDelta,
    RedactedReasoning,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from engines.requests import GenerateRequest

HEAD = Head("resp_" + "a" * 32, 1000, {"model": "demo", "background": True, "tools": []}, ["shell"], encrypts=True)
STARTED = Started("demo-0", "demo", 5, "words", resumable=True)

texts = st.text(max_size=5)
ids = st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple)
logprobs: Any = st.recursive(
    st.builds(TokenLogprob, texts, st.integers(-1, 9), st.floats(-9, 0), st.binary(max_size=3)),
    lambda inner: st.builds(
        TokenLogprob, texts, st.integers(-1, 9), st.floats(-9, 0), st.binary(max_size=3), st.tuples(inner)
    ),
    max_leaves=3,
)
deltas: Any = st.one_of(
    st.builds(TextDelta, texts, st.just(0), ids, st.none() | st.lists(logprobs, min_size=1, max_size=2).map(tuple)),
    st.builds(ReasoningDelta, texts, st.just(0), ids),
    st.builds(RedactedReasoning, texts),
    st.builds(ToolCallStarted, st.integers(0, 1), texts, st.sampled_from(["add", "shell"]), st.just(0), ids),
    st.builds(ToolCallArgumentsDelta, st.integers(0, 1), texts, st.just(0), ids),
    st.builds(ToolCallFinished, st.integers(0, 1), st.just(0), ids),
)
streams: Any = st.lists(deltas, max_size=12).map(lambda events: [STARTED, *events])


class Sealing:
    """Encrypts nothing twice to the same text."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, thought: Thought) -> str:
        self.count += 1
        return f"sealed-{id(self)}-{self.count}"


def cut(events: Sequence[Told], ends: Sequence[int]) -> list[list[Told]]:
    places = sorted({min(end, len(events)) for end in ends} | {0, len(events)})
    return [list(events[start:end]) for start, end in pairwise(places)]


@given(streams, st.lists(st.integers(0, 13), max_size=6), st.integers(0, 7))
@hypothesis_settings(deadline=None)
def test_whoever_goes_on_after_any_batch_says_the_same(events: list[Told], ends: list[int], taken_after: int) -> None:
    pieces = cut(events, ends)
    taken_after = min(taken_after, len(pieces))
    first = ToldResponse(HEAD, Sealing(), is_made=True)
    first.opening()
    batches = [first.tell_new(piece).text for piece in pieces[:taken_after]]
    # Another replica is told what was stored, and goes on.
    second = ToldResponse(HEAD, Sealing(), is_made=True)
    second.opening()
    for batch in batches:
        second.tell(Batch.parse(batch))
    stored = [event for piece in pieces[:taken_after] for event in piece]
    assert second.token_ids == [id for event in stored for id in getattr(event, "token_ids", ())]
    batches += [second.tell_new(piece).text for piece in pieces[taken_after:]]
    # So is a third, with nothing left to say, and those who read.
    third = ToldResponse(HEAD, Sealing(), is_made=True)
    third.opening()
    told = [third.tell(Batch.parse(batch)) for batch in batches]
    reader = ToldResponse(HEAD)
    reader.opening()
    assert [reader.tell(Batch.parse(batch)) for batch in batches] == told
    for one in (second, third):
        one.finish(Finished(("length",), Usage(), "demo-0"))
    assert second.output.json.count("sealed") == third.output.json.count("sealed")
    assert second.output.writer.rhythm == third.output.writer.rhythm
    assert second.output.writer.sequence == third.output.writer.sequence
    numbers = [int(line.rpartition(":")[2].rstrip("}")) for text in told for line in text.split("\n\n")[:-1]]
    assert numbers == list(range(2, 2 + len(numbers)))


@given(streams)
def test_a_batch_is_read_as_it_was_written(events: list[Told]) -> None:
    batch = Batch(events, ["a", "b"])
    assert batch.text.isascii() and "\n" not in batch.text
    assert Batch.parse(batch.text) == batch


@given(streams)
def test_pieces_of_one_text_are_one(events: list[Told]) -> None:
    apart, together = ToldResponse(HEAD, Sealing(), is_made=True), ToldResponse(HEAD, Sealing(), is_made=True)
    few = joined(events)
    for one, said in ((apart, events), (together, few)):
        for event in said:
            one.tell_new([event])
        one.cut_short()
    assert apart.token_ids == together.token_ids
    strip = str.maketrans("", "", "0123456789")
    assert apart.output.json.translate(strip) == together.output.json.translate(strip)
    assert joined(few) == few


async def test_what_it_takes_to_make_one_is_read_as_it_was_written() -> None:
    request = GenerateRequest.model_validate(
        {
            "model": "demo",
            "messages": [
                {"role": "system", "content": "Be \u00e4\ud83d."},
                {"role": "user", "content": [{"type": "text", "text": "a\nb"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "add"}}]},
                {"role": "tool", "content": "2", "tool_call_id": "1", "extra": {"kept": [1]}},
            ],
            "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "add"}},
            "sampling": {"max_tokens": 5, "guided": {"json_schema": {"type": "object"}}},
            "session": {"id": "mine"},
            "priority": 0,
        }
    )
    names = Names({}, {("max_tokens",): ("max_output_tokens",), ("messages", 1): ("input", 0), ("resume",): None})
    added = [("msg_1", '{"a": 1}'), ("msg_2", "{}")]
    for place in (Place(None, None, None), Place("resp_1", Size(3, 40), None), Place(None, None, "conv_1")):
        written = BackgroundRequest(Asking(request, names), place, added, "ab" * 32)
        text = await written.text()
        assert text.isascii()
        read = await BackgroundRequest.parse(text)
        assert read.asking.request == request
        assert read.asking.request.model_fields_set == request.model_fields_set
        assert read.asking.names.table == names.table
        assert (read.place, read.added, read.key) == (place, added, written.key)
