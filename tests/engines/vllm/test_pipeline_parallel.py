"""Two stages, one after another, say what one rank says, also where they go on with what that has begun."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from engines.events import Delta
from engines.requests import GenerateRequest
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import answer, counted, counting, listen
from tests.engines.vllm.booted import demo_engine
from tests.engines.vllm.test_resuming import REQUESTS, cuts, flatten, generated, going_on

# A boot of three processes, and all kinds of requests: over a minute.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def staged() -> AsyncIterator[VllmEngine]:
    async with demo_engine(pipeline_parallel_size=2) as engine:
        yield engine


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_it_says_and_goes_on_with_the_same(
    vllm_engine: VllmEngine, staged: VllmEngine, request_: GenerateRequest
) -> None:
    n = request_.sampling.n
    whole, again = await asyncio.gather(listen(vllm_engine, request_), listen(staged, request_))
    deltas: list[Delta] = whole[1:-1]  # type: ignore[assignment]
    assert flatten(again) == flatten(whole)
    assert generated(again[1:-1], n) == generated(deltas, n)
    for cut in cuts(deltas, 3):
        rest = await listen(staged, going_on(request_, deltas[:cut]))
        assert generated([*deltas[:cut], *rest], n) == generated(deltas, n), f"cut at {cut}"


async def test_requests_share_its_stages(staged: VllmEngine) -> None:
    answers = await asyncio.gather(*(answer(staged, counting(first, first + 30)) for first in range(1, 25)))
    assert [one.text for one in answers] == [counted(first, first + 30) for first in range(1, 25)]
