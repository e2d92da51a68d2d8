"""Simulated engines for tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engines.completion import Completion, collect
from engines.context import Context
from engines.registry import EngineSpec
from engines.requests import GenerateRequest, Sampling
from engines.simulated.engine import SimulatedEngine
from engines.simulated.options import SimulatedOptions


@asynccontextmanager
async def engine(name: str = "simulated-0", **options: Any) -> AsyncIterator[SimulatedEngine]:
    """A started engine that waits for nothing."""
    made = SimulatedEngine(
        name, EngineSpec(kind="simulated", model="model"), SimulatedOptions(**{"speed": "instant", **options})
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def asking(text: str, *, sampling: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
    return GenerateRequest(
        model="model",
        messages=[{"role": "user", "content": text}],
        sampling=Sampling(**(sampling or {})),
        **fields,
    )


async def answer(engine: SimulatedEngine, request: GenerateRequest) -> Completion:
    return await collect(engine.generate(request, Context()))
