"""What one request costs vLLM's front, which all streams of the instance share, in one turn of its event loop."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from engines.call_requests import DetokenizeRequest, TokenizeRequest
from engines.errors import InvalidRequest
from engines.requests import GenerateRequest
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import ask
from tests.turns import no_turn_is_longer

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOUND_S = 0.25


def conversation(**fields: Any) -> Callable[[VllmEngine], Coroutine[Any, Any, object]]:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "sampling": {"max_tokens": 1}} | fields
    request = GenerateRequest.model_validate(body)
    return lambda engine: ask(engine, request)


PROPERTIES = {f"p{number}": {"type": "string", "description": "a b c"} for number in range(8)}
TOOLS = [
    {"type": "function", "function": {"name": f"f{number}", "parameters": {"properties": PROPERTIES}}}
    for number in range(1000)
]
PARTS = [{"type": "text", "text": "hi"}]
ASKS: dict[str, Callable[[VllmEngine], Coroutine[Any, Any, object]]] = {
    "10,000 messages": conversation(messages=[{"role": "user", "content": "hi"}] * 10_000),
    "5,000 messages in parts": conversation(messages=[{"role": "user", "content": PARTS}] * 5_000),
    "1,000 tools": conversation(tools=TOOLS),
    "a long message": conversation(messages=[{"role": "user", "content": "the cat " * 1_000_000}]),
    "a long text": conversation(messages=None, prompt="the cat " * 1_000_000),
    "a million token ids": conversation(messages=None, prompt_token_ids=[97] * 1_000_000),
    "/tokenize": lambda engine: engine.tokenize(TokenizeRequest(model="demo", prompt="the cat " * 500_000)),
    "/detokenize": lambda engine: engine.detokenize(DetokenizeRequest(model="demo", token_ids=[97] * 1_000_000)),
}


@pytest.mark.parametrize("name", ASKS)
async def test_no_turn_is_long(vllm_engine: VllmEngine, name: str) -> None:
    async def asked() -> None:
        try:
            await ASKS[name](vllm_engine)
        except InvalidRequest as error:
            assert "/" not in error.message.replace("/tokenize", "")

    await no_turn_is_longer(asked, BOUND_S)
