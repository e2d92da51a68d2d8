"""A canary: one real token from an engine that has been quiet, to see that it still works."""

from actors.patience import within
from engines.call_requests import EmbedRequest
from engines.completion import Collector
from engines.context import Context
from engines.contract import Engine
from engines.errors import Timeout
from engines.pooling_requests import PoolingRequest
from engines.requests import GenerateRequest, Sampling

_PROMPT = "."


async def ask_one_token(engine: Engine, model: str, timeout_s: float) -> None:
    """Asks for one token, or for one vector, or whatever the engine pools, where it makes only those.

    Raises:
        Timeout: The engine did not answer in time.
        PenstockError: It failed.
    """
    context = Context("canary")
    try:
        await within(timeout_s, _ask(engine, model, context))
    except TimeoutError:
        raise Timeout("first_token", timeout_s) from None
    finally:
        context.kill()


async def _ask(engine: Engine, model: str, context: Context) -> None:
    if engine.capabilities.generate:
        sampling = Sampling(max_tokens=1, temperature=0)
        collector = Collector()
        await engine.submit(GenerateRequest(model=model, prompt=_PROMPT, sampling=sampling), context, collector)
        await collector.completion
    elif engine.capabilities.embed:
        await engine.embed(EmbedRequest(model=model, inputs=[_PROMPT]), context)
    else:
        await engine.pooling(PoolingRequest(model=model, inputs=[_PROMPT]), context)
