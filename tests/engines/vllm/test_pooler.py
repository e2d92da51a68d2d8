"""Prompts through a pooling model, without the model."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from engines.context import Context
from tests.lazily import lazily, needs
from tests.turns import others_go_on

needs("vllm", "its parameters are handed on")

pooling = lazily("engines.vllm.pooler")
pooling_params = lazily("vllm.pooling_params")

GROUP = 16


async def test_rendering_many_leaves_the_event_loop_to_others() -> None:
    async with others_go_on() as steps:

        async def make(place: int, item: int) -> int:
            if place % GROUP == 0:
                steps.take()
            return place + item

        assert await pooling.in_groups(range(4 * GROUP), make) == [2 * place for place in range(4 * GROUP)]
    steps.check(4)


async def test_handing_many_to_the_engine_leaves_the_event_loop_to_others() -> None:
    async with others_go_on() as steps:

        async def encode(prompt: dict[str, Any], *_: Any, **__: Any) -> AsyncIterator[Any]:
            if prompt["place"] % GROUP == 0:
                steps.take()
            yield SimpleNamespace(error=None, outputs=SimpleNamespace(data=prompt["place"]))

        async def convert(place: int, output: int) -> tuple[int, int]:
            return place, output

        pooler = pooling.Pooler(SimpleNamespace(encode=encode), SimpleNamespace())
        params = pooling_params.PoolingParams()
        prompts = [pooling.PoolingPrompt({"place": place}, [], params, "inputs") for place in range(4 * GROUP)]
        made = await pooler.run(prompts, convert, Context(), None)
    assert made == [(place, place) for place in range(4 * GROUP)]
    steps.check(4)
