"""What requests reserve, and what of it they have used in the end."""

from typing import Any

import pytest

from deployments.tenants.quotas import Quotas
from deployments.tenants.spending import TenantSpending
from deployments.tenants.tenant import Tenant
from engines.call_requests import EmbedRequest, TokenizeRequest
from engines.completion import Completion, collect
from engines.context import Context
from engines.contract import Capabilities, Engine
from engines.errors import Forbidden, PenstockError, RateLimited
from engines.pooling_requests import ScoreRequest
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Fail
from tests.contract.asking import Recorder
from tests.engines.simulated.making import engine as simulated

LIMIT = 10_000


class Purse:
    """A tenant's budget, and a model that it asks."""

    def __init__(self, inner: Engine, limit: int = LIMIT) -> None:
        self.tenant = Tenant(name="t", tokens_per_minute=limit, max_requests=5)
        self.quotas = Quotas.alone()
        self.engine = TenantSpending(self.quotas, self.tenant).around(inner)

    async def complete(self, **fields: Any) -> Completion:
        return await collect(self.engine.generate(GenerateRequest(model="m", **fields), Context()))

    async def spent(self) -> int:
        """Tokens that are gone, once the directory has heard of everything."""
        for _ in range(3):
            await self.quotas._ask()
        headers = self.quotas.headers(self.tenant)
        assert headers["x-ratelimit-remaining-requests"] == "5"
        return int(headers["x-ratelimit-limit-tokens"]) - int(headers["x-ratelimit-remaining-tokens"])


async def test_what_is_charged_is_what_was_used() -> None:
    async with simulated() as inner:
        purse = Purse(inner)
        usage = (await purse.complete(prompt="count from 1 to 9", sampling={"n": 2, "max_tokens": 20})).usage
        assert await purse.spent() == usage.prompt_tokens + usage.completion_tokens > 20


async def test_the_most_that_it_can_cost_is_reserved_meanwhile() -> None:
    async with simulated(max_num_seqs=1, speed=1) as inner:
        purse = Purse(inner)
        sampling = {"n": 2, "max_tokens": 1000, "ignore_eos": True}
        request = GenerateRequest(model="m", prompt="one two three", sampling=sampling)
        context, recorder = Context(), Recorder()
        await purse.engine.submit(request, context, recorder)
        assert recorder.events
        left = int(purse.quotas.headers(purse.tenant)["x-ratelimit-remaining-tokens"])
        assert LIMIT - left == len("one two three") + 1 + 2000
        with pytest.raises(RateLimited, match="used up"):
            await purse.complete(prompt="x", sampling={"max_tokens": 9000})
        context.kill()
        await recorder.over()
        # What was said before it was killed, and no more.
        assert 0 < await purse.spent() < 1000


async def test_what_fails_costs_what_it_had_said() -> None:
    refuses = ScriptedEngine("m-0", script=[Fail(error="InvalidRequest", message="no")])
    breaks = ScriptedEngine("m-1", script=["so far", Fail(error="EngineFailed", message="no")])
    spent = []
    for inner in (refuses, breaks):
        await inner.start()
        purse = Purse(inner)
        with pytest.raises(PenstockError):
            await purse.complete(prompt="hello", sampling={"max_tokens": 100})
        spent.append(await purse.spent())
        await inner.stop()
    assert spent[0] == 0 < spent[1] < 100


async def test_who_names_no_end_gets_what_it_can_pay_for() -> None:
    inner = ScriptedEngine("m-0", script=["Hi"])
    await inner.start()
    inner.capabilities = Capabilities(context_length=100_000)
    purse = Purse(inner, limit=1000)
    await purse.complete(prompt="hello", sampling={"n": 2})
    sampling = inner.requests[0].sampling
    assert (sampling.max_tokens, sampling.clip_max_tokens) == ((1000 - 6) // 2, True)
    for asked in ({"prompt": "x" * 1000}, {"prompt": "x", "sampling": {"max_tokens": 1000}}):
        with pytest.raises(Forbidden, match="Ask for fewer: lower max_tokens or n, or send a shorter prompt"):
            await purse.complete(**asked)
    await inner.stop()


async def test_a_prompt_is_never_longer_than_it_is_taken_for() -> None:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "äöü" * 50}], "extra": "x" * 300},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}" * 200}}]},
        {"role": "tool", "tool_call_id": "c", "content": "y" * 100},
    ]
    parameters = {"properties": {"a": {"enum": ["z" * 500]}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    async with simulated() as inner:
        tokens = (await inner.tokenize(TokenizeRequest(model="m", messages=messages, tools=tools))).token_ids
        purse = Purse(inner, limit=len(tokens))
        with pytest.raises(Forbidden):
            await purse.complete(messages=messages, tools=tools, sampling={"max_tokens": 1})


async def test_vectors_cost_their_tokens_and_tokenizing_nothing() -> None:
    async with simulated(embedding_size=4) as inner:
        purse = Purse(inner)
        embeddings = await purse.engine.embed(EmbedRequest(model="m", inputs=["a river", "a mill"]))
        await purse.engine.tokenize(TokenizeRequest(model="m", prompt="a river"))
        assert await purse.spent() == embeddings.prompt_tokens > 0


async def test_scores_cost_their_tokens() -> None:
    async with simulated(embedding_size=4) as inner:
        purse = Purse(inner)
        scores = await purse.engine.score(ScoreRequest(model="m", queries=["a river"], documents=["a mill", "a sea"]))
        assert await purse.spent() == scores.prompt_tokens > 0
