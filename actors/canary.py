"""A canary: one real token from an engine that has been quiet, to see that it still sings."""

import asyncio

from engines.completion import Collector
from engines.context import Context
from engines.contract import Engine
from engines.errors import EngineFailed
from engines.requests import EmbedRequest, GenerateRequest, Sampling

_PROMPT = "."


async def sing(engine: Engine, model: str, timeout_s: float) -> None:
    """Asks for one token, or for one vector where the engine makes only those.

    Raises:
        PenstockError: The engine failed, or did not answer in time.
    """
    context = Context("canary")
    try:
        async with asyncio.timeout(timeout_s):
            if engine.capabilities.generate:
                sampling = Sampling(max_tokens=1, temperature=0)
                collector = Collector()
                await engine.submit(GenerateRequest(model=model, prompt=_PROMPT, sampling=sampling), context, collector)
                await collector.completion
            else:
                await engine.embed(EmbedRequest(model=model, inputs=[_PROMPT]), context)
    except TimeoutError:
        raise EngineFailed(f"The engine {engine.name} did not give one token within {timeout_s:g} s.") from None
    finally:
        context.kill()
