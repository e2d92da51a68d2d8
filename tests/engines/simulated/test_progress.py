"""How far streams are: a long prompt, a hidden reasoning, a place in the queue."""

from engines.context import Context
from engines.contract import Progress
from tests.contract.asking import Recorder, eventually
from tests.engines.simulated.making import asking, engine


async def test_a_long_prompt_is_computed_step_by_step_without_a_word() -> None:
    async with engine(speed=1, max_batched_tokens=16) as made:
        context, recorder = Context(), Recorder()
        await made.submit(asking("river " * 400, sampling={"max_tokens": 4}), context, recorder)
        told: list[Progress | None] = []

        def is_far() -> bool:
            told.append(made.progress(context))
            return bool(recorder.deltas)

        steps = made.steps
        await eventually(is_far)
        tokens = [progress.tokens for progress in told if progress is not None]
        assert tokens == sorted(tokens) and len(set(tokens)) > 3
        assert made.steps > steps + 5
        await recorder.over()
        assert made.progress(context) is None


async def test_hidden_reasoning_is_progress() -> None:
    async with engine(speed=1) as made:
        context, recorder = Context(), Recorder()
        thinking = asking("tell me", include_reasoning=False, chat_template_kwargs={"enable_thinking": True})
        await made.submit(thinking, context, recorder)
        seen: set[int] = set()

        def is_far() -> bool:
            progress = made.progress(context)
            if progress is not None and not recorder.deltas:
                seen.add(progress.tokens)
            return len(seen) > 3

        await eventually(is_far)
        context.kill()


async def test_who_waits_is_not_scheduled() -> None:
    async with engine(speed=1, max_num_seqs=1) as made:
        contexts = [Context(), Context()]
        endless = asking("tell me", sampling={"ignore_eos": True})
        recorders = [Recorder() for _ in contexts]
        for context, recorder in zip(contexts, recorders, strict=True):
            await made.submit(endless, context, recorder)
        await eventually(lambda: recorders[0].deltas > 2)
        first, second = map(made.progress, contexts)
        assert first is not None and first.scheduled and first.tokens > 0
        assert second == Progress(0, scheduled=False)
        contexts[0].kill()
        await eventually(lambda: recorders[1].deltas > 0)
        second = made.progress(contexts[1])
        assert second is not None and second.scheduled
        contexts[1].kill()
