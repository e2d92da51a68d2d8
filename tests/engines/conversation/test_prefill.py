"""Text that is still being written is computed meanwhile."""

import asyncio
from typing import Any

import pytest

from engines.context import Context
from engines.conversation.events import TurnDelta, TurnFinished
from engines.conversation.prefill import STEP_CHARS
from engines.errors import QueueFull
from engines.events import Event, Finished
from engines.operators.link import link
from engines.operators.operator import Transparent
from engines.registry import EngineSpec, make_engine
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from engines.sink import Sink
from tests.contract.asking import eventually
from tests.engines.conversation.talking import respond, talk, user

TEXT = "one two three four five six seven eight nine ten " * 60


async def engine(*script: Any) -> ScriptedEngine:
    made = ScriptedEngine("engine", script=list(script))
    await made.start()
    return made


async def asked(one: ScriptedEngine, times: int) -> None:
    await eventually(lambda: len(one.requests) >= times)


async def test_it_asks_for_one_token_least_urgently_and_cuts_no_word() -> None:
    one = await engine("x")
    conversation, heard = talk(one, user("1", "a"), user("2", TEXT[: STEP_CHARS + 2], open=True))
    await asked(one, 1)
    [request] = one.requests
    assert (request.sampling.max_tokens, request.priority) == (1, 100)
    assert (request.continue_final_message, request.add_generation_prompt) == (True, False)
    first, text = (message.content for message in request.messages or ())
    assert first == "a"
    assert isinstance(text, str) and TEXT.startswith(f"{text} ") and len(text) > STEP_CHARS - 10
    assert request.session == conversation.session
    assert not heard.events


async def test_it_waits_for_more_text_and_for_the_one_before() -> None:
    one = await engine(Hang(hang=True))
    conversation, _ = talk(one, user("1", "short ", open=True))
    for _ in range(3):
        conversation.take(user("1", TEXT, open=True))
        await asyncio.sleep(0)
    assert len(one.requests) == 1
    conversation.context.kill()


async def test_the_turn_ends_it() -> None:
    one = await engine(Hang(hang=True))
    conversation, _ = talk(one, user("1", "a"), user("2", TEXT, open=True))
    await asked(one, 1)
    conversation.take(user("2", "end"))
    conversation.take(respond("t"))
    await asked(one, 2)
    await eventually(lambda: one.load().running <= 1)
    assert (one.requests[1].messages or [])[-1].content == f"{TEXT}end"
    conversation.context.kill()


async def test_nobody_hears_of_one_that_fails() -> None:
    one = await engine(QueueFull("Full."))
    conversation, heard = talk(one, user("1", TEXT, open=True))
    await asked(one, 1)
    await asyncio.sleep(0)
    assert not heard.events
    conversation.context.kill()


class Counting(Transparent):
    """Counts the answers that have come to their end."""

    finished = 0

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        await super().submit(request, context, _CountingSink(self, sink))


class _CountingSink:
    def __init__(self, counting: Counting, sink: Sink) -> None:
        self._counting = counting
        self._sink = sink
        self.fail = sink.fail

    def emit(self, event: Event) -> None:
        self._sink.emit(event)
        self._counting.finished += isinstance(event, Finished)


@pytest.mark.parametrize("early", [False, True])
async def test_the_turn_finds_its_prompt_in_the_cache(early: bool) -> None:
    options = {"speed": "instant", "context_length": 16384}
    one = make_engine("simulated-0", EngineSpec(kind="simulated", model="model", options=options))
    await one.start()
    try:
        counting = Counting()
        conversation, heard = talk(link(counting, one), user("1", "count from 1 to 3"), respond("t"))
        await heard.until(TurnFinished, "t")
        conversation.take(user("2", TEXT, open=True))
        if early:
            await eventually(lambda: counting.finished == 2)
        conversation.take(user("2", "count from 1 to 3"))
        conversation.take(respond("u"))
        await heard.until(TurnDelta, "u")
        usage = (await heard.until(TurnFinished, "u")).usage
        assert (usage.cached_tokens > usage.prompt_tokens * 0.8) is early
    finally:
        await one.stop()
