"""Text that is still being written is computed meanwhile."""

import asyncio
from typing import Any

import pytest

from engines.conversation.events import TurnDelta, TurnFinished
from engines.conversation.prefill import STEP_CHARS
from engines.errors import QueueFull
from engines.registry import EngineSpec, make_engine
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from tests.engines.conversation.talking import respond, talk, user

TEXT = "one two three four five six seven eight nine ten " * 60


async def engine(*script: Any) -> ScriptedEngine:
    made = ScriptedEngine("engine", script=list(script))
    await made.start()
    return made


async def asked(one: ScriptedEngine, times: int) -> None:
    async with asyncio.timeout(30):
        while len(one.requests) < times:  # noqa: ASYNC110 - an engine does not say when it is asked
            await asyncio.sleep(0.001)


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
    async with asyncio.timeout(30):
        while one.load().running > 1:  # noqa: ASYNC110 - an engine does not say when it is idle
            await asyncio.sleep(0.001)
    assert (one.requests[1].messages or [])[-1].content == f"{TEXT}end"
    conversation.context.kill()


async def test_nobody_hears_of_one_that_fails() -> None:
    one = await engine(QueueFull("Full."))
    conversation, heard = talk(one, user("1", TEXT, open=True))
    await asked(one, 1)
    await asyncio.sleep(0)
    assert not heard.events
    conversation.context.kill()


@pytest.mark.parametrize("early", [False, True])
async def test_the_turn_finds_its_prompt_in_the_cache(early: bool) -> None:
    options = {"speed": "instant", "context_length": 16384}
    one = make_engine("simulated-0", EngineSpec(kind="simulated", model="model", options=options))
    await one.start()
    try:
        conversation, heard = talk(one, user("1", "count from 1 to 3"), respond("t"))
        await heard.until(TurnFinished, "t")
        conversation.take(user("2", TEXT, open=True))
        if early:
            async with asyncio.timeout(30):
                while not conversation.prefill.computed:  # noqa: ASYNC110 - a prefill says nothing
                    await asyncio.sleep(0.001)
        conversation.take(user("2", "count from 1 to 3"))
        conversation.take(respond("u"))
        await heard.until(TurnDelta, "u")
        usage = (await heard.until(TurnFinished, "u")).usage
        assert (usage.cached_tokens > usage.prompt_tokens * 0.8) is early
    finally:
        await one.stop()
