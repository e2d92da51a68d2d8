"""One booted vLLM for all tests of this folder that do not end it."""

from collections.abc import AsyncIterator

import pytest_asyncio

from engines.vllm.engine import VllmEngine
from tests.engines.vllm.booted import demo_engine


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def vllm_engine() -> AsyncIterator[VllmEngine]:
    async with demo_engine() as engine:
        yield engine
