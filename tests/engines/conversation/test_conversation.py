"""Turn after turn, on an engine that plays a script."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from engines.context import Context
from engines.conversation.conversation import Conversation
from engines.conversation.converse import converse
from engines.conversation.events import (
    ConversationEvent,
    FrameRefused,
    TurnDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
)
from engines.conversation.frames import Append, Cancel, Configure, Delete, Frame, Item, Open, TurnSettings
from engines.conversation.journal import ConversationLimits
from engines.errors import Cancelled, ConversationFull, InstanceLost, InvalidRequest, QueueFull
from engines.events import Finished, ToolCallArgumentsDelta, ToolCallFinished, ToolCallStarted
from engines.messages import Message
from engines.requests import GenerateRequest, Session
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from tests.contract.asking import eventually
from tests.engines.conversation.talking import Heard, ends, respond, talk, user

HANG = Hang(hang=True)


async def engine(script: Any = ()) -> ScriptedEngine:
    made = ScriptedEngine("engine", script=script)
    await made.start()
    return made


def said_to(request: GenerateRequest) -> list[tuple[str, Any]]:
    return [(message.role, message.content) for message in request.messages or ()]


def by_prompt(scripts: dict[str, list[Any]]) -> Callable[[GenerateRequest], list[Any]]:
    """A script for each last message."""
    return lambda request: scripts[str((request.messages or ())[-1].content)]


async def test_each_turn_answers_what_was_said_before_it() -> None:
    one = await engine(by_prompt({"a": ["A"], "b": ["B"]}))
    conversation, heard = talk(one, user("1", "a"), respond("t"), user("2", "b"), respond("u"), user("3", "c"))
    conversation.end()
    await heard.until(Finished)
    assert said_to(one.requests[0]) == [("user", "a")]
    assert said_to(one.requests[1]) == [("user", "a"), ("assistant", "A"), ("user", "b")]
    assert [type(event) for event in heard.events] == [TurnStarted, TurnDelta, TurnFinished] * 2 + [Finished]
    assert [item.id for item in conversation.journal.items()] == ["1", "t.0", "2", "u.0", "3"]
    assert heard.events[2] == TurnFinished("t", "stop", heard.events[2].usage, "engine", ("t.0",))  # type: ignore[union-attr]
    sessions = {request.session for request in one.requests}
    assert sessions == {Session(id=conversation.context.id, mode="soft")}


async def test_a_turn_with_its_own_input_stands_beside_the_others() -> None:
    one = await engine(by_prompt({"a": ["A", HANG], "x": ["X"]}))
    conversation, heard = talk(one, user("1", "a"), respond("t"))
    await heard.until(TurnDelta, "t")
    aside = {"aside": True, "input": [{"role": "user", "content": "x"}], "instructions": "Be brief."}
    conversation.take(respond("side", **aside))
    assert (await heard.until(TurnFinished, "side")).items == ()
    assert said_to(one.requests[1]) == [("system", "Be brief."), ("user", "x")]
    assert [item.id for item in conversation.journal.items()] == ["1"]
    conversation.context.kill()


async def test_tools_are_called_and_answered() -> None:
    call = [
        ToolCallStarted(0, "call-1", "f"),
        ToolCallArgumentsDelta(0, '{"x": 1}'),
        ToolCallFinished(0),
        ToolCallStarted(1, "call-2", "g"),
        ToolCallArgumentsDelta(1, "{}"),
        ToolCallFinished(1),
    ]
    one = await engine(by_prompt({"a": ["I look.", *call], "3": ["It is 3."]}))
    conversation, heard = talk(one, user("1", "a"), respond("t"))
    assert (await heard.until(TurnFinished, "t")).items == ("t.0", "t.1", "t.2")
    conversation.take(Append(item="2", message=Message(role="tool", content="3", tool_call_id="call-1")))
    conversation.take(respond("u"))
    await heard.until(TurnFinished, "u")
    asked = (one.requests[1].messages or [])[1]
    assert asked.content == "I look."
    assert [(call.id, call.function.arguments) for call in asked.tool_calls or ()] == [
        ("call-1", '{"x": 1}'),
        ("call-2", "{}"),
    ]


async def test_a_call_that_was_not_finished_is_none() -> None:
    one = await engine([ToolCallStarted(0, "call-1", "f"), ToolCallArgumentsDelta(0, '{"x":'), HANG])
    conversation, heard = talk(one, user("1", "a"), respond("t"))
    await heard.until(TurnDelta, "t", times=2)
    conversation.take(Cancel(turn="t"))
    finished = await heard.until(TurnFinished, "t")
    assert (finished.reason, finished.items) == ("cancelled", ())


async def test_a_turn_that_is_cancelled_keeps_what_it_said_and_the_next_begins() -> None:
    one = await engine(by_prompt({"a": ["A", HANG], "b": ["B"]}))
    conversation, heard = talk(one, user("1", "a"), respond("t"), user("2", "b"), respond("u"), respond("v"))
    await heard.until(TurnDelta, "t")
    for turn in ("v", "t", "nobody's"):
        conversation.take(Cancel(turn=turn))
    await heard.until(TurnFinished, "u")
    assert ends(heard.events) == {"v": "cancelled", "t": "cancelled", "u": "stop"}
    assert said_to(one.requests[1]) == [("user", "a"), ("assistant", "A"), ("user", "b")]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (["half", InstanceLost("Gone.")], "instance_lost"),
        ([QueueFull("Full.")], "queue_full"),
    ],
)
async def test_a_turn_that_fails_leaves_nothing_and_the_conversation_goes_on(script: list[Any], code: str) -> None:
    one = await engine(by_prompt({"a": script, "b": ["B"]}))
    conversation, heard = talk(one, user("1", "a"), respond("t"), user("2", "b"), respond("u"))
    conversation.end()
    await heard.until(Finished)
    assert ends(heard.events) == {"t": code, "u": "stop"}
    assert said_to(one.requests[1]) == [("user", "a"), ("user", "b")]


async def test_settings_hold_until_they_change_and_a_turn_has_its_own() -> None:
    one = await engine(["x"])
    settings = TurnSettings(instructions="One.", sampling={"max_tokens": 3})  # type: ignore[arg-type]
    conversation, heard = talk(one, user("1", "a"), respond("t"), settings=settings)
    conversation.take(respond("u", sampling={"max_tokens": 5}))
    conversation.take(Configure(settings=TurnSettings(instructions="Two.")))
    conversation.take(respond("v"))
    await heard.until(TurnFinished, "v")
    assert [request.sampling.max_tokens for request in one.requests] == [3, 5, None]
    assert [said_to(request)[0] for request in one.requests] == [("system", "One."), ("user", "a"), ("system", "Two.")]


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        (user("1", "again"), "item"),
        (user("t.7", "in a turn's name"), "item"),
        (Delete(item="nothing"), "item"),
        (respond("t"), "turn"),
        (respond("old"), "turn"),
        (Open(model="model"), None),
    ],
)
async def test_a_frame_that_is_wrong_is_refused_and_changes_nothing(frame: Frame, param: str | None) -> None:
    one = await engine(["A", HANG])
    old = Item(id="old.0", message=Message(role="assistant", content="o"))
    conversation, heard = talk(one, user("1", "a"), respond("t"), items=[old])
    await heard.until(TurnDelta, "t")
    before = conversation.journal.items()
    conversation.take(frame)
    refused = await heard.until(FrameRefused)
    assert isinstance(refused.error, InvalidRequest) and refused.error.param == param
    assert conversation.journal.items() == before
    assert conversation.turns == 1
    conversation.context.kill()


async def test_a_turn_needs_something_to_answer_and_settings_that_fit() -> None:
    one = await engine(["A"])
    conversation, heard = talk(one, respond("t"), user("1", "a"))
    assert "nothing to answer" in (await heard.until(TurnFailed, "t")).error.message
    conversation.take(respond("u", tool_choice="required"))
    message = (await heard.until(TurnFailed, "u")).error.message
    assert message == "tool_choice asks for a tool, and there are no tools."


async def test_turns_that_wait_are_bounded() -> None:
    one = await engine([HANG])
    limits = ConversationLimits(turns=2)
    conversation, heard = talk(one, user("1", "a"), respond("t"), respond("u"), respond("v"), limits=limits)
    refused = await heard.until(FrameRefused)
    assert isinstance(refused.error, ConversationFull) and refused.name == "v"
    conversation.context.kill()


async def test_stopping_it_ends_its_turns_and_then_itself() -> None:
    one = await engine(["A", HANG])
    conversation, heard = talk(one, user("1", "a"), respond("t"), respond("u"))
    await heard.until(TurnDelta, "t")
    conversation.context.stop()
    assert (await heard.until(Finished)).reason == "cancelled"
    assert ends(heard.events) == {"u": "cancelled", "t": "cancelled"}
    conversation.take(respond("v"))
    assert isinstance(heard.events[-1], Finished)


async def test_killing_it_ends_it_at_once() -> None:
    one = await engine(["A", HANG])
    conversation, heard = talk(one, user("1", "a"), respond("t"), respond("u"))
    await heard.until(TurnDelta, "t")
    count = len(heard.events)
    conversation.context.kill()
    assert isinstance(await heard.failed(), Cancelled)
    assert len(heard.events) == count
    await eventually(lambda: not one.load().running)


async def test_items_that_it_opens_with_must_fit_one_another() -> None:
    items = [Item(id="1", message=Message(role="user", content="a"))] * 2
    with pytest.raises(InvalidRequest, match="two of them have the id '1'"):
        Conversation(await engine(), Open(model="model", items=items), Context(), Heard())


class TestPulled:
    """The same by way of iterators."""

    async def test_frames_in_events_out(self) -> None:
        async def frames() -> AsyncIterator[Frame]:
            yield Open(model="model")
            yield user("1", "a")
            yield respond("t")

        one = await engine(["A"])
        events = [event async for event in one.converse(frames(), Context())]
        assert [type(event) for event in events] == [TurnStarted, TurnDelta, TurnFinished, Finished]

    async def test_an_answer_can_be_asked_about(self) -> None:
        answers: asyncio.Queue[ConversationEvent] = asyncio.Queue()

        async def frames() -> AsyncIterator[Frame]:
            yield Open(model="model")
            for turn in range(3):
                yield user(f"q{turn}", "a")
                yield respond(f"t{turn}")
                while not isinstance(await answers.get(), TurnFinished):
                    pass

        one = await engine(["A"])
        async for event in one.converse(frames(), Context()):
            answers.put_nowait(event)
        assert [len(request.messages or ()) for request in one.requests] == [1, 3, 5]

    @pytest.mark.parametrize("frames", [[], [respond("t")]])
    async def test_it_opens_with_open(self, frames: list[Frame]) -> None:
        events = converse(await engine(), _each(frames), Context())
        with pytest.raises(InvalidRequest, match="The first frame of a conversation is Open"):
            await anext(events)

    async def test_what_the_frames_raise_is_raised(self) -> None:
        async def frames() -> AsyncIterator[Frame]:
            yield Open(model="model")
            raise ZeroDivisionError

        one = await engine([HANG])
        with pytest.raises(ZeroDivisionError):
            async for _ in one.converse(frames(), Context()):
                pass

    async def test_a_fast_writer_is_held_back(self) -> None:
        read = 0

        async def frames() -> AsyncIterator[Frame]:
            nonlocal read
            yield Open(model="model")
            yield user("1", "a")
            for turn in range(100):
                read += 1
                yield respond(f"t{turn}")

        one = await engine(["A", HANG])
        events = one.converse(frames(), context := Context())
        await anext(events)
        for _ in range(200):
            await asyncio.sleep(0)
        assert read == ConversationLimits().turns + 1
        context.kill()
        with pytest.raises(Cancelled):
            async for _ in events:
                pass

    async def test_dropping_it_ends_what_runs_and_closes_the_frames(self) -> None:
        closed = asyncio.Event()

        async def frames() -> AsyncIterator[Frame]:
            try:
                yield Open(model="model")
                yield user("1", "a")
                yield respond("t")
                await asyncio.Event().wait()
            finally:
                closed.set()

        one = await engine(["A", HANG])
        events = one.converse(frames(), Context())
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            await closed.wait()
        await eventually(lambda: not one.load().running)


async def _each(frames: list[Frame]) -> AsyncIterator[Frame]:
    for frame in frames:
        yield frame
