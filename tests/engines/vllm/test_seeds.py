"""Seeded requests whose prompts are computed in pieces: on the CPU, vLLM's core dies of them when left to itself."""

import asyncio

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
    assert first == second
    assert len(set(first)) == MANY
    # However the prompt was cut.
    assert (await answer(vllm_engine, long_request(MANY - 1))).token_ids == first[-1]
    await still_serves(vllm_engine)
