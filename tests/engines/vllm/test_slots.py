"""Requests for many choices leave room in vLLM's steps for those for one, and take turns."""

import asyncio

import pytest

from engines.context import Context
from engines.contract import Load, Progress
from engines.events import Finished
from engines.vllm.engine import VllmEngine
from engines.vllm.slots import RequestSlots, engine_slots
from tests.engines.vllm.asking import Recorder, ask, counted, counting, eventually
from tests.engines.vllm.booted import DEMO_OPTIONS

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLOTS = DEMO_OPTIONS["max_num_seqs"] * 3 // 4
LONG = {"n": SLOTS, "max_tokens": 400, "ignore_eos": True}


async def test_a_request_for_one_does_not_wait_for_those_for_many(vllm_engine: VllmEngine) -> None:
    contexts = [Context(), Context()]
    recorders = [Recorder(), Recorder()]
    for context, recorder in zip(contexts, recorders, strict=True):
        await vllm_engine.submit(counting(1, 400, **LONG), context, recorder)
    await eventually(lambda: len(recorders[0].events) > SLOTS)
    assert (await ask(vllm_engine, counting(1, 9))).text == counted(1, 9)
    assert not any(recorder.ended.is_set() for recorder in recorders)

    # The second waits, and nobody may take it for a stream that hangs.
    assert len(recorders[1].events) == 1
    await eventually(lambda: vllm_engine.progress(contexts[1]) == Progress(0, scheduled=False))
    contexts[0].kill()
    await eventually(lambda: len(recorders[1].events) > SLOTS)
    await eventually(lambda: (progress := vllm_engine.progress(contexts[1])) is not None and progress.scheduled)
    contexts[1].kill()
    await eventually(lambda: vllm_engine.load() == Load())


async def test_all_of_more_choices_than_there_are_slots_are_answered(vllm_engine: VllmEngine) -> None:
    completion = await ask(vllm_engine, counting(1, 9, n=3 * SLOTS))
    assert [choice.text for choice in completion.choices] == [counted(1, 9)] * (3 * SLOTS)


async def test_a_request_that_waits_can_be_stopped(vllm_engine: VllmEngine) -> None:
    running, waiting = Context(), Context()
    recorder = Recorder()
    await vllm_engine.submit(counting(1, 400, **LONG), running, Recorder())
    await vllm_engine.submit(counting(1, 400, **LONG), waiting, recorder)
    waiting.stop()
    await recorder.end()
    finished = recorder.events[-1]
    assert isinstance(finished, Finished)
    assert finished.reasons == ("cancelled",) * SLOTS and finished.usage.completion_tokens == 0
    running.kill()
    await eventually(lambda: vllm_engine.load() == Load())


async def test_requests_take_turns() -> None:
    free = engine_slots(1)
    order: list[str] = []

    async def answer(name: str, request: RequestSlots) -> None:
        for _ in range(3):
            assert await request.take()
            order.append(name)
            await asyncio.sleep(0)
            request.leave()

    await asyncio.gather(*(answer(name, RequestSlots(free)) for name in ("first", "second")))
    assert order == ["first", "second"] * 3


async def test_what_has_ended_takes_none() -> None:
    free = engine_slots(1)
    running, ended, later = (RequestSlots(free) for _ in range(3))
    assert await running.take()
    taking = asyncio.create_task(ended.take())
    await asyncio.sleep(0)
    ended.close()
    running.close()
    assert not await taking
    assert await later.take()
