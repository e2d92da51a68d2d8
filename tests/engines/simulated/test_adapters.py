"""The simulated engine's adapters: as on vLLM, without weights."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engines.adapters.adapter import Adapter
from engines.call_requests import EmbedRequest
from engines.completion import Collector
from engines.context import Context
from engines.contract import Progress
from engines.errors import AdapterFailed, InstanceLost
from engines.registry import EngineSpec
from engines.simulated.engine import SimulatedEngine
from engines.simulated.options import SimulatedOptions
from tests.engines.simulated.making import answer, asking

ADAPTERS = tuple(Adapter(name=name, path=f"org/{name}") for name in ("a", "b", "c"))


@asynccontextmanager
async def engine(**options: Any) -> AsyncIterator[SimulatedEngine]:
    spec = EngineSpec(kind="simulated", model="model", adapters=ADAPTERS)
    made = SimulatedEngine("simulated-0", spec, SimulatedOptions(**{"speed": "instant", "max_loras": 2, **options}))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def test_each_answers_as_itself_and_the_same_again() -> None:
    async with engine() as made:
        names = (None, "a", "b", "c")
        answers = [await answer(made, asking("tell me", adapter=name)) for name in names]
        assert len({one.text for one in answers}) == 4
        assert [one.model for one in answers] == ["model", "a", "b", "c"]
        assert [(await answer(made, asking("tell me", adapter=name))).text for name in names] == [
            one.text for one in answers
        ]
        assert made.capabilities.max_loras == 2


async def test_the_least_recently_used_goes() -> None:
    async with engine() as made:
        for name in ("a", "b", "a", "c"):
            await answer(made, asking("x", adapter=name))
        assert made.load().adapters == ("a", "c")


async def test_prefixes_are_each_adapters_own() -> None:
    async with engine() as made:
        cached = [
            (await answer(made, asking("x " * 100, adapter=name))).usage.cached_tokens for name in (None, "a", "b")
        ]
        again = [
            (await answer(made, asking("x " * 100, adapter=name))).usage.cached_tokens for name in (None, "a", "b")
        ]
        assert cached == [0, 0, 0] and all(again)


async def test_waits_while_it_is_loaded_and_its_stop_ends_the_wait() -> None:
    async with engine(lora_load_s=3600) as made:
        context, collector = Context(), Collector()
        asked = asyncio.ensure_future(made.submit(asking("x", adapter="a"), context, collector))
        await asyncio.sleep(0)
        assert made.progress(context) == Progress(0, scheduled=False)
        context.stop()
        await asked
        assert (await collector.completion).choices[0].reason == "cancelled"
        late = asyncio.ensure_future(answer(made, asking("x", adapter="a")))
        await asyncio.sleep(0)
    with pytest.raises(InstanceLost):
        await late


async def test_a_broken_one_fails_alone() -> None:
    async with engine(broken_loras=["b"]) as made:
        with pytest.raises(AdapterFailed, match="'b' cannot be loaded"):
            await answer(made, asking("x", adapter="b"))
        with pytest.raises(AdapterFailed, match="'z' is not known"):
            await answer(made, asking("x", adapter="z"))
        await answer(made, asking("x", adapter="a"))
        assert made.load().adapters == ("a",)


async def test_vectors_are_each_adapters_own() -> None:
    async with engine() as made:
        vectors = [
            (await made.embed(EmbedRequest(model="model", inputs=["x"], adapter=name))).vectors
            for name in (None, "a", "b")
        ]
        assert len(set(vectors)) == 3
        assert made.load().adapters == ("a", "b")
