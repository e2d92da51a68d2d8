import asyncio
import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.channel.frames import Entry, News
from actors.channel.outbox import MERGE_AT, Outbox, merge
from engines.errors import PenstockError
from engines.events import Event, ReasoningDelta, Started, TextDelta, TokenLogprob, ToolCallArgumentsDelta
from tests.actors.strategies import deltas, items


def story(entries: Sequence[Entry]) -> dict[tuple[int, int | None], list[Any]]:
    """What each choice of each request said: its events in order, with neighbouring deltas read as one text."""
    choices: dict[tuple[int, int | None], list[Any]] = {}
    for number, item in entries:
        choices.setdefault((number, getattr(item, "index", None)), []).append(item)
    return {choice: [_read(kind, list(run)) for kind, run in groupby(said, _kind)] for choice, said in choices.items()}


def _kind(item: Event | PenstockError) -> Any:
    if isinstance(item, TextDelta | ReasoningDelta):
        return type(item), item.logprobs is None
    if isinstance(item, ToolCallArgumentsDelta):
        return type(item), item.call
    return id(item)


def _read(kind: Any, run: list[Any]) -> Any:
    first = run[0]
    if not isinstance(first, TextDelta | ReasoningDelta | ToolCallArgumentsDelta):
        return first
    token_ids = [id for item in run for id in item.token_ids]
    if isinstance(first, ToolCallArgumentsDelta):
        return kind, "".join(item.arguments for item in run), token_ids
    logprobs = [logprob for item in run for logprob in item.logprobs or ()]
    return kind, "".join(item.text for item in run), token_ids, logprobs


entries = st.lists(st.tuples(st.integers(1, 3), items), max_size=40)
steps = st.lists(
    st.tuples(st.integers(1, 3), items) | st.just("take") | st.integers(0, 20).map(lambda back: ("ack", back)),
    max_size=60,
)


@given(entries)
def test_merging_keeps_what_every_choice_said(entries: list[Entry]) -> None:
    merged = merge(entries)
    assert story(merged) == story(entries)
    assert len(merged) <= len(entries)


@given(st.lists(st.tuples(st.integers(1, 3), deltas), max_size=40))
def test_merging_leaves_no_neighbours_of_one_kind(entries: list[Entry]) -> None:
    assert merge(merge(entries)) == merge(entries)


@given(steps, st.integers(2, 4))
def test_any_interleaving_of_emits_takes_and_acks_delivers_everything(steps: list[Any], window: int) -> None:
    async def play() -> None:
        outbox = Outbox(window)
        said: list[Entry] = []
        heard: list[Entry] = []
        sequence = 0

        def take_all() -> None:
            nonlocal sequence
            number, entries, _ = outbox.take()
            sequence += 1
            assert number == sequence
            heard.extend(entries)

        for step in steps:
            if step == "take":
                if not outbox.is_empty and not outbox.is_held:
                    assert await outbox.ready()
                    take_all()
            elif step[0] == "ack":
                outbox.acknowledge(max(0, sequence - step[1]))
            else:
                outbox.emit(*step)
                said.append(step)
            assert outbox.unacknowledged <= window
        outbox.acknowledge(sequence)
        if not outbox.is_empty:
            take_all()
        assert story(heard) == story(said)

    asyncio.run(play())


async def test_past_the_window_it_holds_back_and_merges() -> None:
    outbox = Outbox(window=2)
    for _ in range(2):
        outbox.emit(1, TextDelta("x"))
        assert await outbox.ready()
        outbox.take()
    waiting = asyncio.ensure_future(outbox.ready())
    await asyncio.sleep(0)
    for index in range(100):
        outbox.emit(1, TextDelta(f"{index} ", token_ids=(index,)))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.acknowledge(1)
    assert await waiting
    sequence, entries, _ = outbox.take()
    assert sequence == 3
    assert entries == [(1, TextDelta("".join(f"{i} " for i in range(100)), token_ids=tuple(range(100))))]


async def test_what_piles_up_is_bounded_by_what_was_said() -> None:
    outbox = Outbox(window=2)
    for index in range(10 * MERGE_AT):
        outbox.emit(index % 3, TextDelta("x", token_ids=(index,)))
        assert len(outbox) <= MERGE_AT
    _, entries, _ = outbox.take()
    assert sum(len(item.text) for _, item in merge(entries) if isinstance(item, TextDelta)) == 10 * MERGE_AT


async def test_what_comes_in_one_turn_of_the_loop_leaves_as_one_frame() -> None:
    outbox = Outbox(window=8)
    waiting = asyncio.ensure_future(outbox.ready())
    await asyncio.sleep(0)
    for number in range(64):
        outbox.emit(number, TextDelta("x"))
    outbox.broadcast(News("topic", 1))
    assert await waiting
    sequence, entries, news = outbox.take()
    assert (sequence, len(entries), news) == (1, 64, [News("topic", 1)])
    assert outbox.is_empty


async def test_a_nudge_lets_an_empty_frame_leave() -> None:
    outbox = Outbox(window=2)
    outbox.nudge()
    assert await outbox.ready()
    assert outbox.take() == (1, [], [])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await outbox.ready()


async def test_closing_wakes_the_reader_even_past_the_window() -> None:
    outbox = Outbox(window=2)
    for _ in range(2):
        outbox.nudge()
        outbox.take()
    waiting = asyncio.ensure_future(outbox.ready())
    await asyncio.sleep(0)
    outbox.close()
    assert not await waiting


async def test_continuations_keep_the_pace_and_share_a_frame() -> None:
    outbox = Outbox(window=8, pace_s=0.05)
    outbox.emit(1, TextDelta("a"))
    assert await outbox.ready()
    outbox.take()
    left_s = time.monotonic()
    waiting = asyncio.ensure_future(outbox.ready())
    for _ in range(3):
        outbox.emit(1, TextDelta("b"))
        await asyncio.sleep(0)
    assert not waiting.done()
    assert await waiting
    assert time.monotonic() - left_s >= 0.05
    assert len(outbox.take()[1]) == 3


async def test_a_start_waits_for_its_first_piece_but_not_for_long() -> None:
    outbox = Outbox(window=8)
    waiting = asyncio.ensure_future(outbox.ready())
    outbox.emit_in_company(1, Started("demo-0", "m"))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.emit_urgently(1, TextDelta("a"))
    assert await waiting
    assert len(outbox.take()[1]) == 2
    outbox.emit_in_company(2, Started("demo-0", "m"))
    assert await asyncio.wait_for(outbox.ready(), 60)
    assert len(outbox.take()[1]) == 1


async def test_a_start_that_waits_does_not_hold_others_up() -> None:
    outbox = Outbox(window=8)
    waiting = asyncio.ensure_future(outbox.ready())
    outbox.emit_in_company(1, Started("demo-0", "m"))
    await asyncio.sleep(0)
    outbox.emit(2, TextDelta("b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.done()
    assert len(outbox.take()[1]) == 2


async def test_what_is_urgent_does_not_keep_the_pace() -> None:
    outbox = Outbox(window=8, pace_s=60.0)
    outbox.emit(1, TextDelta("a"))
    assert await outbox.ready()
    outbox.take()
    waiting = asyncio.ensure_future(outbox.ready())
    outbox.emit(1, TextDelta("b"))
    await asyncio.sleep(0)
    outbox.emit_urgently(2, TextDelta("c"))
    assert await waiting
    assert len(outbox.take()[1]) == 2


def _logprobs(top: int) -> tuple[TokenLogprob, ...]:
    return (TokenLogprob("a", 1, -1.0, b"a", tuple(TokenLogprob("b", 2, -2.0, b"b") for _ in range(top))),)


async def test_what_waits_past_a_bound_is_given_up_with_its_stream() -> None:
    overflown: list[int] = []
    outbox = Outbox(2, stream_bytes=20_000_000, on_overflow=overflown.append)
    for _ in range(2):
        outbox.nudge()
        outbox.take()
    assert outbox.is_held
    for _ in range(MERGE_AT):
        if not overflown:
            outbox.emit(1, TextDelta("a", 0, (1,), _logprobs(20)))
        outbox.emit(2, TextDelta("a", 0, (1,)))
    assert overflown == [1]
    outbox.acknowledge(2)
    _, entries, _ = outbox.take()
    assert {number for number, _ in entries} == {2}


async def test_past_the_bound_for_all_the_largest_goes() -> None:
    overflown: list[int] = []
    outbox = Outbox(2, all_bytes=30_000_000, on_overflow=overflown.append)
    for _ in range(2):
        outbox.nudge()
        outbox.take()
    for _ in range(MERGE_AT):
        for number, top in ((1, 10), (2, 20), (3, 5)):
            outbox.emit(number, TextDelta("a", 0, (1,), _logprobs(top)))
    assert overflown == [2]


async def test_what_leaves_is_not_weighed() -> None:
    overflown: list[int] = []
    outbox = Outbox(2, stream_bytes=1, on_overflow=overflown.append)
    for _ in range(2 * MERGE_AT):
        outbox.emit(1, TextDelta("a", 0, (1,)))
    assert not overflown
