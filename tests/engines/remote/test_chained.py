"""One Penstock behind another: what the far one says reaches the caller of the near one, in the caller's words."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engines.contract import Engine
from engines.events import Finished, FinishReason, TextDelta, Usage
from engines.registry import EngineSpec, make_engine
from engines.scripted.engine import ScriptedEngine
from tests.contract.asking import eventually
from tests.deployments.http.conftest import Served, serving_one


@asynccontextmanager
async def chained(far: Engine, **options: Any) -> AsyncIterator[Served]:
    """The near server, whose engine asks a far server."""
    async with serving_one(engines=[far]) as server:
        url = {"base_url": f"{server.url}/v1", "dialect": "vllm"}
        near = make_engine("near-0", EngineSpec(kind="openai", model="demo", options={**url, **options}))
        async with serving_one(engines=[near]) as served:
            yield served


def simulated(**options: Any) -> Engine:
    return make_engine("far-0", EngineSpec(kind="simulated", model="demo", options={"speed": "instant", **options}))


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_far_refusal_names_the_callers_field(field: str) -> None:
    async with chained(simulated(context_length=64)) as served:
        answer = await served.chat(**{field: 1000})
        assert answer.status == 400
        assert answer.json["error"]["param"] == field
        assert answer.json["error"]["code"] == "context_length_exceeded"


async def test_a_model_that_the_far_server_does_not_know_is_not_the_callers_mistake() -> None:
    async with chained(simulated(), model="other") as served:
        answer = await served.chat()
        assert (answer.status, answer.json["error"]["code"]) == (502, "provider_refused")
        assert "other" not in answer.json["error"]["message"]


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
async def test_every_reason_passes_both_servers(reason: FinishReason) -> None:
    script = [TextDelta("Hi", 0, (1, 2)), Finished((reason,), Usage(3, 2, 1, 0), "far-0")]
    async with chained(ScriptedEngine("far-0", script=script)) as served:
        answer = await served.chat()
        (choice,) = answer.json["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Hi", reason)
        assert answer.json["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


async def test_a_caller_that_leaves_frees_the_far_slot() -> None:
    far = simulated(speed=1)
    async with chained(far) as served:
        body = {"model": "demo", "messages": [{"role": "user", "content": "count from 1 to 900"}], "stream": True}
        async with served.client.post(f"{served.url}/v1/chat/completions", json=body) as response:
            await response.content.readany()
            assert far.load().running == 1
            response.close()
        await eventually(lambda: far.load().running == 0)
