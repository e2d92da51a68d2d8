"""Seeded requests whose prompts are computed in pieces: on the CPU, vLLM's core dies of them when left to itself."""

import asyncio
from operator import eq

import pytest

from engines.requests import GenerateRequest
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import answer, chat, still_serves

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = 24


def long_request(seed: int) -> GenerateRequest:
    numbers = " ".join(str(number + seed) for number in range(700))
    return chat(numbers, sampling={"temperature": 2.0, "seed": seed, "max_tokens": 24, "min_tokens": 24})


async def answers(engine: VllmEngine) -> list[tuple[int, ...]]:
    return [one.token_ids for one in await asyncio.gather(*(answer(engine, long_request(n)) for n in range(MANY)))]


async def test_many_long_seeded_prompts_at_once_are_answered_alike_each_time(vllm_engine: VllmEngine) -> None:
    first, second = await answers(vllm_engine), await answers(vllm_engine)
    assert len(set(first)) == MANY
    # vLLM's sums differ in their last bits with what else is in the batch: now and then the next best token is drawn.
    assert sum(map(eq, first, second)) >= MANY - 2
    # However the prompt was cut.
    alone = [(await answer(vllm_engine, long_request(n))).token_ids for n in range(3)]
    assert sum(map(eq, alone, first)) >= 2
    await still_serves(vllm_engine)
