"""A conversation is the same on every engine, and whatever breaks in the middle of it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.conversation.events import ConversationEvent, TurnDelta, TurnFailed, TurnFinished
from engines.conversation.frames import Append, Delete, Frame
from engines.events import Finished, ToolCallStarted
from engines.messages import Message
from engines.operators.link import link
from engines.operators.migration import Migration, MigrationOptions
from engines.registry import EngineSpec, make_engine
from tests.contract.asking import WEATHER, Running
from tests.contract.test_migration import Breaking
from tests.engines.conversation.talking import Heard, ends, respond, talk, texts, token_ids, user

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEEDED = {"temperature": 2.0, "seed": 5, "max_tokens": 12}
GREEDY = {"temperature": 0, "max_tokens": 24}


async def heard(engine: Any, model: str, frames: Sequence[Frame]) -> Heard:
    """A conversation from its first frame to its end."""
    conversation, heard = talk(engine, *frames, model=model)
    conversation.end()
    await heard.until(Finished)
    return heard


async def test_turns_depend_on_one_another(subject: Running) -> None:
    counting = [user("1", "count from 3 to 7"), respond("t", sampling=GREEDY)]
    aside = respond("side", aside=True, input=[{"role": "user", "content": "count from 1 to 3"}], sampling=GREEDY)
    again = [user("2", "count from 4 to 6"), respond("u", sampling=GREEDY)]
    all_heard = await heard(subject.engine, subject.model, [*counting, aside, *again])
    said = {turn: text.strip() for turn, text in all_heard.texts().items()}
    assert said == {"t": "3 4 5 6 7", "side": "1 2 3", "u": "4 5 6"}
    assert ends(all_heard.events) == dict.fromkeys(said, "stop")
    await subject.is_idle()


async def test_a_tool_is_called_and_its_answer_read(subject: Running) -> None:
    subject.needs("tools")
    settings = {"tools": [WEATHER], "sampling": GREEDY | {"max_tokens": 60}}
    conversation, said = talk(subject.engine, user("1", "what is the weather in Paris?"), model=subject.model)
    conversation.take(respond("t", **settings))
    finished = await said.until(TurnFinished, "t")
    [call] = [e.delta for e in said.events if isinstance(e, TurnDelta) and isinstance(e.delta, ToolCallStarted)]
    assert (call.name, finished.reason) == ("get_weather", "tool_calls")
    conversation.take(Append(item="2", message=Message(role="tool", content="sunny, 21 degrees", tool_call_id=call.id)))
    conversation.take(respond("u", **settings))
    conversation.end()
    await said.until(Finished)
    assert ends(said.events)["u"] in ("stop", "length", "tool_calls")
    await subject.is_idle()


async def test_a_turn_that_breaks_goes_on_as_if_nothing_had_happened(subject: Running) -> None:
    subject.needs("resume")
    frames = [
        user("1", "count from 3 to 9"),
        respond("t", sampling=GREEDY),
        user("2", "tell me more"),
        respond("u", sampling=SEEDED),
        user("3", "count from 1 to 5"),
        respond("v", sampling=GREEDY),
    ]
    whole = await heard(subject.engine, subject.model, frames)
    for cuts in ((3, 2, 4), (1, 1, 1, 2, 3), (5, 4)):
        broken = link(Migration(), Breaking(*cuts), subject.engine)
        again = await heard(broken, subject.model, frames)
        assert token_ids(again.events) == token_ids(whole.events)
        assert (texts(again.events), ends(again.events)) == (texts(whole.events), ends(whole.events))
    await subject.is_idle()


SAMPLINGS: list[dict[str, Any]] = [
    GREEDY,
    SEEDED,
    GREEDY | {"stop": ["5"]},
    SEEDED | {"guided": {"json_schema": {"type": "object", "properties": {"age": {"type": "integer"}}}}},
    SEEDED | {"frequency_penalty": 1.0},
]
TURNS = st.fixed_dictionaries(
    {
        "text": st.sampled_from(["count from 2 to 9", "tell me more", "what is the weather in Rome?"]),
        "sampling": st.sampled_from(SAMPLINGS),
        "tools": st.booleans(),
        "aside": st.booleans(),
        "deleted": st.booleans(),
        "pieces": st.integers(1, 3),
    }
)


def frames_of(turns: Sequence[dict[str, Any]]) -> list[Frame]:
    frames: list[Frame] = []
    for number, turn in enumerate(turns):
        words = turn["text"].split(" ")
        pieces = [" ".join(words[:1]), *(f" {word}" for word in words[1 : turn["pieces"]])]
        pieces.append("".join(f" {word}" for word in words[max(1, turn["pieces"]) :]))
        frames += [user(f"{number}", piece, open=True) for piece in pieces[:-1]]
        frames.append(user(f"{number}", pieces[-1]))
        settings: dict[str, Any] = {"sampling": turn["sampling"]}
        if turn["tools"] and "guided" not in turn["sampling"]:
            settings["tools"] = [WEATHER]
        if turn["aside"]:
            settings |= {"aside": True, "input": [{"role": "user", "content": turn["text"]}]}
        frames.append(respond(f"t{number}", **settings))
        if turn["deleted"]:
            frames.append(Delete(item=f"{number}"))
    return frames


def answers(events: Sequence[ConversationEvent]) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Of each turn its text, its ids and its end."""
    said, ids, ended = texts(events), token_ids(events), ends(events)
    return {turn: (said.get(turn, ""), ids.get(turn, ()), end) for turn, end in ended.items()}


@given(st.lists(TURNS, min_size=1, max_size=4), st.lists(st.integers(1, 9), max_size=6))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_wherever_it_is_cut_the_ids_of_every_turn_are_the_same(
    turns: list[dict[str, Any]], cuts: list[int]
) -> None:
    """A cut is the loss of the engine after so many events of a request, whichever comes next."""
    frames = frames_of(turns)
    engine = make_engine("simulated-0", EngineSpec(kind="simulated", model="model", options={"speed": "instant"}))
    await engine.start()
    try:
        whole = await heard(engine, "model", frames)
        broken = link(Migration(MigrationOptions(limit=20)), Breaking(*cuts), engine)
        again = await heard(broken, "model", frames)
    finally:
        await engine.stop()
    assert answers(again.events) == answers(whole.events)
    assert not [event for event in whole.events if isinstance(event, TurnFailed)]
    # Each has said something: a text, or the call of a tool.
    assert all(ids for _, ids, _ in answers(whole.events).values())
