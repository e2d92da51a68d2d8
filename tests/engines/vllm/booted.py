"""Real vLLM engines for tests. Booting one takes about a minute."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engines.adapters.adapter import Adapter
from engines.registry import EngineSpec, make_engine
from engines.vllm.engine import VllmEngine

DEMO_OPTIONS: dict[str, Any] = {
    "model": "demo",
    "kv_cache_bytes": 64 * 2**20,
    "max_num_seqs": 32,
    "enforce_eager": True,
    "tool_parser": "hermes",
    # Reads the demo model's think block when it is asked to think, and takes everything as the answer otherwise.
    "reasoning_parser": "deepseek_v3",
    "free_grammars": True,
}
POISON = {"logits_processors": ["tests.engines.vllm.poison:Poison"]}
"""Engine arguments of a vLLM whose core dies of a request with the seed below, in the first step that works on it."""
POISON_SEED = 666


def make_vllm(
    name: str, adapters: Sequence[Adapter] = (), pipeline_parallel_size: int = 1, **options: Any
) -> VllmEngine:
    """An engine that is not started."""
    spec = EngineSpec(
        kind="vllm",
        model="demo",
        options=options,
        adapters=tuple(adapters),
        pipeline_parallel_size=pipeline_parallel_size,
    )
    engine = make_engine(name, spec)
    assert isinstance(engine, VllmEngine)
    return engine


@asynccontextmanager
async def booted(name: str, adapters: Sequence[Adapter] = (), **options: Any) -> AsyncIterator[VllmEngine]:
    """A started engine; stopped at the end."""
    pytest.importorskip("vllm")
    engine = make_vllm(name, adapters, **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@asynccontextmanager
async def demo_engine(adapters: Sequence[Adapter] = (), **options: Any) -> AsyncIterator[VllmEngine]:
    """The demo model on vLLM."""
    async with booted("vllm-0", adapters, **(DEMO_OPTIONS | options)) as engine:
        yield engine
