"""Continuous batching: fairness, budgets, priorities, preemption, and what the load says."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.context import Context
from engines.errors import EngineDead
from engines.events import Event, Finished, TextDelta
from engines.registry import EngineSpec
from engines.requests import GenerateRequest, TenantShare
from engines.simulated.engine import SimulatedEngine
from engines.simulated.options import SimulatedOptions
from tests.contract.asking import Recorder, eventually
from tests.engines.simulated.making import answer, asking, engine

FOREVER = {"ignore_eos": True, "max_tokens": 4000}


class Diary(Recorder):
    """A recorder that also writes into a diary that it shares."""

    def __init__(self, name: str, shared: list[str]) -> None:
        super().__init__()
        self._name, self._shared = name, shared

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, TextDelta):
            self._shared.append(self._name)


async def test_running_requests_take_turns_token_by_token() -> None:
    async with engine() as simulated:
        diary: list[str] = []
        recorders = [Diary(name, diary) for name in "abcd"]
        for recorder in recorders:
            await simulated.submit(asking("go", sampling={"ignore_eos": True, "max_tokens": 10}), Context(), recorder)
        for recorder in recorders:
            await recorder.over()
    assert diary == list("abcd") * 10


async def test_a_long_prompt_does_not_hold_up_the_others() -> None:
    async with engine(max_batched_tokens=64) as simulated:
        diary: list[str] = []
        talking, reading = Diary("talking", diary), Diary("reading", diary)
        context = Context()
        await simulated.submit(asking("go", sampling=FOREVER), context, talking)
        await eventually(lambda: talking.deltas > 0)
        said = talking.deltas
        await simulated.submit(asking("river " * 2000, sampling={"max_tokens": 1}), Context(), reading)
        await reading.over()
        context.kill()
    steps_of_the_prompt = 2000 // 63
    assert talking.deltas - said >= steps_of_the_prompt, "a token in each of the steps that the prompt took"


async def test_no_more_sequences_run_than_allowed() -> None:
    async with engine(max_num_seqs=2) as simulated:
        contexts = [Context() for _ in range(5)]
        recorders = [Recorder() for _ in contexts]
        for context, recorder in zip(contexts, recorders, strict=True):
            await simulated.submit(asking("go", sampling=FOREVER), context, recorder)
        await eventually(lambda: recorders[0].deltas > 0)
        assert (simulated.load().running, simulated.load().queued) == (2, 3)
        contexts[0].kill()
        contexts[3].kill()
        assert (simulated.load().running, simulated.load().queued) == (1, 2)
        await eventually(lambda: recorders[2].deltas > 0)
        assert not recorders[4].deltas


async def test_a_lower_priority_is_served_first_and_equals_in_order_of_arrival() -> None:
    async with engine(max_num_seqs=1) as simulated:
        diary: list[str] = []
        recorders = []
        for name, priority in (("late", 1), ("first", 0), ("second", 0), ("early", -5)):
            recorder = Diary(name, diary)
            recorders.append(recorder)
            request = asking("go", sampling={"max_tokens": 1}, priority=priority)
            await simulated.submit(request, Context(), recorder)
        for recorder in recorders:
            await recorder.over()
    assert diary == ["early", "first", "second", "late"]


async def test_preempted_requests_lose_and_repeat_nothing() -> None:
    async with engine(context_length=512, num_blocks=32, max_batched_tokens=64) as simulated:
        requests = [asking(f"count from {n} to {n + 90}") for n in range(12)]
        completions = await asyncio.gather(*(answer(simulated, request) for request in requests))
        assert simulated.preemptions > 0
        assert simulated.load().kv_use == 0
    for n, completion in enumerate(completions):
        assert completion.text == " ".join(map(str, range(n, n + 91)))
        assert completion.usage.completion_tokens == 92


async def test_cancelling_frees_the_blocks_at_once() -> None:
    async with engine() as simulated:
        context, recorder = Context(), Recorder()
        await simulated.submit(asking("river " * 100, sampling=FOREVER), context, recorder)
        await eventually(lambda: recorder.deltas > 3)
        assert simulated.load().kv_use > 0
        context.stop()
        assert (simulated.load().running, simulated.load().kv_use) == (0, 0)


async def test_stopping_accounts_for_the_tokens_that_were_held_back() -> None:
    async with engine() as simulated:
        context = Context()
        recorder = Recorder()
        # All of the answer may yet turn out to be this stop string.
        stop = " ".join(map(str, range(1, 202)))
        await simulated.submit(asking("count from 1 to 200", sampling={"stop": [stop]}), context, recorder)
        for _ in range(20):
            await asyncio.sleep(0)
        assert recorder.deltas == 0
        context.stop()
        assert recorder.finished is not None
        (delta,) = [event for event in recorder.events if isinstance(event, TextDelta)]
        assert delta.text == ""
        assert len(delta.token_ids) == recorder.finished.usage.completion_tokens > 5


async def test_a_prompt_asked_before_comes_from_the_cache() -> None:
    prompt = "river " * 100
    async with engine(block_size=16) as simulated:
        first = await answer(simulated, asking(prompt))
        second = await answer(simulated, asking(prompt))
        other = await answer(simulated, asking("mountain " + prompt))
    assert first.usage.cached_tokens == 0
    # Whole blocks, and never all of the prompt: its last token is computed to have a next one.
    assert second.usage.cached_tokens == (second.usage.prompt_tokens - 1) // 16 * 16
    assert other.usage.cached_tokens == 0
    assert first.choices == second.choices


async def test_a_tenant_finds_nothing_of_another_in_the_cache_but_of_its_group() -> None:
    def of(tenant: str, salt: str, prompt: str) -> GenerateRequest:
        return asking(prompt, tenant=TenantShare(name=tenant, cache_salt=salt))

    async with engine(block_size=16) as simulated:
        for prompt in ("river " * 100, "no block"):
            own = await answer(simulated, of("a", "a", prompt))
            others = await answer(simulated, of("b", "b", prompt))
            nobodys = await answer(simulated, asking(prompt))
            assert own.usage.cached_tokens == others.usage.cached_tokens == nobodys.usage.cached_tokens == 0
            assert own.choices == others.choices == nobodys.choices
        groups = await answer(simulated, of("c", "a", "river " * 100))
        assert groups.usage.cached_tokens > 90
        # What is generated is salted like what was asked.
        said = await answer(simulated, of("a", "a", "count from 1 to 100"))
        (turn,) = asking("count from 1 to 100").messages or ()
        messages = [turn, turn.model_copy(update={"role": "assistant", "content": said.text}), turn]
        later = [of(salt, salt, "go on").model_copy(update={"messages": messages}) for salt in "ba"]
        others, own = [(await answer(simulated, request)).usage.cached_tokens for request in later]
        assert others == 0 < 80 < own


async def test_a_conversation_finds_its_own_answers_in_the_cache() -> None:
    async with engine(block_size=16) as simulated:
        turn = asking("count from 1 to 100")
        completion = await answer(simulated, turn)
        assert turn.messages is not None
        later = turn.model_copy(
            update={
                "messages": [
                    *turn.messages,
                    turn.messages[0].model_copy(update={"role": "assistant", "content": completion.text}),
                    turn.messages[0],
                ]
            }
        )
        again = await answer(simulated, later)
    assert again.usage.cached_tokens > completion.usage.prompt_tokens + 80


async def test_the_cache_can_be_switched_off() -> None:
    async with engine(prefix_caching=False) as simulated:
        for _ in range(2):
            assert (await answer(simulated, asking("river " * 100))).usage.cached_tokens == 0


@settings(max_examples=25, deadline=None)
@given(
    asked=st.lists(st.tuples(st.integers(1, 120), st.integers(1, 40), st.integers(0, 60)), min_size=1, max_size=14),
    num_blocks=st.integers(16, 40),
    max_num_seqs=st.integers(1, 8),
    max_batched_tokens=st.integers(1, 80),
)
def test_whatever_is_asked_and_cancelled_everything_ends_and_nothing_leaks(
    asked: list[tuple[int, int, int]], num_blocks: int, max_num_seqs: int, max_batched_tokens: int
) -> None:
    async def play() -> None:
        async with engine(
            context_length=16 * 16,
            num_blocks=num_blocks,
            max_num_seqs=max_num_seqs,
            max_batched_tokens=max_batched_tokens,
        ) as simulated:
            recorders = []
            for prompt, tokens, cut in asked:
                context = Context()
                recorder = Recorder(lambda deltas, c=context, at=cut: c.kill() if deltas == at else None)  # type: ignore[misc]
                recorders.append(recorder)
                request = asking("river " * prompt, sampling={"ignore_eos": True, "max_tokens": tokens})
                await simulated.submit(request, context, recorder)
            for (_, tokens, cut), recorder in zip(asked, recorders, strict=True):
                await recorder.over()
                assert recorder.deltas == (cut if 0 < cut <= tokens else tokens)
            load = simulated.load()
            assert (load.running, load.queued, load.kv_use) == (0, 0, 0)

    asyncio.run(play())


async def test_steps_take_the_time_of_the_formula() -> None:
    step_time = {"base_s": 0.02, "prefill_token_s": 0, "decode_sequence_s": 0, "context_token_s": 0}
    clock = asyncio.get_running_loop().time
    async with engine(speed=2.0, step_time=step_time) as simulated:
        began_s = clock()
        requests = [asking("go", sampling={"max_tokens": 20, "ignore_eos": True}) for _ in range(4)]
        await asyncio.gather(*(answer(simulated, request) for request in requests))
        # Twenty steps of ten milliseconds for all four together. Only a slow machine takes longer.
        assert clock() - began_s >= 0.19


def test_a_cache_that_one_sequence_overfills_is_refused() -> None:
    with pytest.raises(ValueError, match="num_blocks"):
        SimulatedOptions(context_length=1024, num_blocks=8, block_size=16)


async def test_a_broken_step_ends_every_stream_and_the_engine() -> None:
    class Broken(SimulatedEngine):
        async def _step(self) -> None:
            raise ZeroDivisionError("oops")

    broken = Broken("broken", EngineSpec(kind="simulated", model="model"), SimulatedOptions())
    await broken.start()
    recorder = Recorder()
    await broken.submit(asking("go"), Context(), recorder)
    await recorder.over()
    assert isinstance(recorder.error, EngineDead)
    assert not broken.ready
    with pytest.raises(EngineDead, match="oops"):
        await broken.check_health()
    await broken.stop()


async def test_finished_comes_when_the_last_choice_has_ended() -> None:
    async with engine() as simulated:
        recorder = Recorder()
        await simulated.submit(asking("count from 1 to 9", sampling={"n": 3}), Context(), recorder)
        await recorder.over()
    assert isinstance(recorder.events[-1], Finished)
    assert recorder.events[-1].reasons == ("stop",) * 3
