"""Real vLLM engines for tests. Booting one takes about a minute."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

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


def make_vllm(name: str, **options: Any) -> VllmEngine:
    """An engine that is not started."""
    engine = make_engine(name, EngineSpec(kind="vllm", model="demo", options=options))
    assert isinstance(engine, VllmEngine)
    return engine


@asynccontextmanager
async def booted(name: str, **options: Any) -> AsyncIterator[VllmEngine]:
    """A started engine; stopped at the end."""
    pytest.importorskip("vllm")
    engine = make_vllm(name, **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@asynccontextmanager
async def demo_engine(**options: Any) -> AsyncIterator[VllmEngine]:
    """The demo model on vLLM."""
    async with booted("vllm-0", **(DEMO_OPTIONS | options)) as engine:
        yield engine
