"""How far streams are, also those that say nothing."""

import asyncio

import pytest

from engines.context import Context
from engines.contract import Progress
from engines.errors import EngineFailed
from engines.events import Finished
from engines.vllm.engine import VllmEngine
from tests.actors.channel_reader import until
from tests.engines.vllm.asking import Recorder, chat, counting
from tests.lazily import lazily, needs

needs("vllm", "its core says how far they are")

scheduler = lazily("engines.vllm.scheduler")

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def seen(engine: VllmEngine, context: Context, times: int, every_s: float) -> list[Progress]:
    """What was said of the stream, asked as heartbeats ask."""
    found = []
    for _ in range(times):
        await asyncio.sleep(every_s)
        progress = engine.progress(context)
        assert progress is not None
        found.append(progress)
    return found


async def test_hidden_reasoning_is_progress(vllm_engine: VllmEngine) -> None:
    context, recorder = Context(), Recorder()
    request = chat(
        "count from 1 to 90",
        sampling={"max_tokens": 400, "ignore_eos": True},
        include_reasoning=False,
        chat_template_kwargs={"enable_thinking": True},
    )
    await vllm_engine.submit(request, context, recorder)
    before = vllm_engine.steps
    tokens = [progress.tokens for progress in await seen(vllm_engine, context, 4, 0.1)]
    assert tokens == sorted(tokens) and tokens[-1] > tokens[0]
    assert vllm_engine.steps > before
    context.kill()
    assert vllm_engine.progress(context) is None


async def test_the_core_says_who_waits_and_who_works(vllm_engine: VllmEngine) -> None:
    contexts = [Context() for _ in range(40)]
    request = counting(1, 9, max_tokens=600, ignore_eos=True)
    recorders = [Recorder() for _ in contexts]
    for context, recorder in zip(contexts, recorders, strict=True):
        await vllm_engine.submit(request, context, recorder)
    # 32 run at once; the others say nothing, so the core is asked.
    for _ in range(40):
        await asyncio.sleep(0.05)
        told = [vllm_engine.progress(context) for context in contexts]
        if sum(progress is not None and not progress.scheduled for progress in told) == 8:
            break
    else:
        raise AssertionError(told)
    assert [progress for progress in told if progress is not None and not progress.scheduled] == [
        Progress(0, False)
    ] * 8
    for context in contexts:
        context.kill()
    # By now they run, or are gone.
    for recorder in recorders:
        await recorder.end()
    assert all(vllm_engine.progress(context) is None for context in contexts)


async def test_who_is_taken_up_is_known_without_a_word_of_the_core(
    vllm_engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = counting(1, 9, max_tokens=600, ignore_eos=True)
    contexts = [Context() for _ in range(34)]
    recorders = [Recorder() for _ in contexts]
    for context, recorder in zip(contexts, recorders, strict=True):
        await vllm_engine.submit(request, context, recorder)

    def waiting() -> list[int]:
        told = [vllm_engine.progress(context) for context in contexts]
        return [number for number, progress in enumerate(told) if progress is not None and not progress.scheduled]

    await until(lambda: waiting() == [32, 33])
    asked: list[object] = []
    monkeypatch.setattr("engines.vllm.progress.ProgressBoard._note", lambda _, *answer: asked.append(answer))
    contexts[0].kill()
    await until(lambda: waiting() == [33])
    # What the core had said before is older, and changes nothing.
    for context in contexts:
        context.kill()
    for recorder in recorders:
        await recorder.end()


async def test_steps_that_bring_no_token_count(vllm_engine: VllmEngine) -> None:
    before = vllm_engine.steps
    prompts = [" ".join(str(number + first) for number in range(700)) for first in range(100, 112)]
    recorders = [Recorder() for _ in prompts]
    for prompt, recorder in zip(prompts, recorders, strict=True):
        await vllm_engine.submit(chat(prompt, sampling={"max_tokens": 1}), Context(), recorder)
    for recorder in recorders:
        await recorder.end()
    # One token each, and all of these prompts do not fit in a step.
    assert vllm_engine.steps > before + 2


async def test_what_a_stream_says_and_what_the_core_says_agree(vllm_engine: VllmEngine) -> None:
    context, recorder = Context(), Recorder()
    await vllm_engine.submit(counting(1, 9, max_tokens=50, ignore_eos=True, n=2), context, recorder)
    last = Progress(0)
    async with asyncio.timeout(60):
        while not recorder.ended.is_set():
            last = vllm_engine.progress(context) or last
            await asyncio.sleep(0.005)
    finished = recorder.events[-1]
    assert isinstance(finished, Finished)
    usage = finished.usage
    assert 0 < last.tokens <= 2 * usage.prompt_tokens + usage.completion_tokens


async def test_nothing_is_known_of_a_stream_that_is_not_there(vllm_engine: VllmEngine) -> None:
    assert vllm_engine.progress(Context()) is None


async def test_another_vllm_is_refused_by_name() -> None:
    scheduler.check_core()
    with pytest.raises(EngineFailed, match=r"vLLM \S+ has no Scheduler\.add_request,"):
        scheduler._check({"Scheduler.add_request": False, "Request.append_output_token_ids": True})
