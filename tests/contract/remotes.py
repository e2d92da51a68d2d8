"""Remote engines under test, each asking a real server, or a gateway in front of one."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from deployments.fleet_settings import HttpSettings
from deployments.http.ingress import HttpIngress
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from engines.contract import Engine
from engines.registry import EngineSpec, make_engine
from tests.contract.asking import started
from tests.contract.azure_gateway import API_VERSION, AzureGateway
from tests.contract.bedrock_gateway import BedrockGateway
from tests.engines.remote.aws import SECRET, set_account

AZURE_KEY = "0123456789abcdef"
DEPLOYMENT = "contract"
REGION = "eu-central-1"
BEDROCK_MODEL = "eu.anthropic.demo-v1:0"
CONTEXT_LENGTH = 8192
_MESSAGES: Mapping[str, Any] = {
    "max_tokens": 1024,
    "capabilities": {"vision": False, "guided": False, "reasoning": False, "context_length": 2048},
}
"""Options of an engine that speaks Messages to vLLM's server with the demo model."""


def remote(kind: str, base_url: str, served_as: str, **options: Any) -> AbstractAsyncContextManager[Engine]:
    """A started engine of that kind."""
    spec = EngineSpec(kind=kind, model=served_as, options={"base_url": base_url, **options})
    return started(make_engine(f"{kind}-0", spec))


@asynccontextmanager
async def penstock_server() -> AsyncIterator[str]:
    """Where our own server answers, which has a simulated engine."""
    options = {"speed": 20, "context_length": CONTEXT_LENGTH}
    model = make_engine("simulated-0", EngineSpec(kind="simulated", model="model", options=options))
    fleet = LocalFleet({"model": [model]})
    await fleet.start()
    ingress = HttpIngress(fleet, HttpSettings(port=0), Metrics())
    await ingress.start()
    try:
        yield f"http://127.0.0.1:{ingress.port}"
    finally:
        await ingress.stop(0)
        await fleet.stop()


@asynccontextmanager
async def openai_over_penstock() -> AsyncIterator[Engine]:
    """The engine `openai`, asking our own server."""
    capabilities = {"embed": True, "score": True, "pooling": True, "vision": False}
    async with (
        penstock_server() as url,
        remote("openai", f"{url}/v1", "model", dialect="vllm", capabilities=capabilities) as engine,
    ):
        yield engine


@asynccontextmanager
async def azure(upstream: str, *, key: str = AZURE_KEY, **options: Any) -> AsyncIterator[Engine]:
    """The engine `azure`, asking Azure's gateway in front of a server of OpenAI's API that has the model `model`.

    Args:
        upstream: Where that server answers.
        key: What the engine sends as its key; the gateway takes `AZURE_KEY`.
        options: The engine's, besides those that it needs.
    """
    given = {"deployment": DEPLOYMENT, "model": "gpt", "api_version": API_VERSION, "api_key_env": "CONTRACT_AZURE_KEY"}
    gateway = AzureGateway(upstream, AZURE_KEY, {DEPLOYMENT: "model"})
    async with gateway.listening() as url:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CONTRACT_AZURE_KEY", key)
            async with remote("azure", url, "model", **{**given, **options}) as engine:
                yield engine


@asynccontextmanager
async def azure_over_penstock() -> AsyncIterator[Engine]:
    """The engine `azure`, asking Azure's gateway in front of our own server."""
    # Nothing in OpenAI's own API makes the simulated model reason.
    capabilities = {"embed": True, "vision": False, "reasoning": False, "context_length": CONTEXT_LENGTH}
    async with penstock_server() as url, azure(url, capabilities=capabilities) as engine:
        yield engine


def openai_over_vllm(url: str) -> AbstractAsyncContextManager[Engine]:
    """The engine `openai`, asking vLLM's own server."""
    return remote("openai", f"{url}/v1", "demo", dialect="vllm", capabilities={"vision": False})


def anthropic_over_vllm(url: str) -> AbstractAsyncContextManager[Engine]:
    """The engine `anthropic`, asking vLLM's own server, which speaks Messages, too."""
    return remote("anthropic", f"{url}/v1", "demo", **_MESSAGES)


@asynccontextmanager
async def bedrock(upstream: str, *, secret: str = SECRET, **options: Any) -> AsyncIterator[Engine]:
    """The engine `bedrock`, asking Bedrock's gateway in front of a server of Messages that has the model `demo`.

    Args:
        upstream: Where that server answers.
        secret: What the engine signs with; the gateway takes signatures by `SECRET`.
        options: The engine's, besides those that it needs.
    """
    pytest.importorskip("botocore")
    gateway = BedrockGateway(upstream, REGION, {BEDROCK_MODEL: "demo"})
    given = {**_MESSAGES, "region": REGION, "model": BEDROCK_MODEL}
    async with gateway.listening() as url, AsyncExitStack() as stack:
        # The credentials are found when it starts: the environment need not stay as it is then.
        with TemporaryDirectory() as nowhere, pytest.MonkeyPatch.context() as patch:
            set_account(patch, Path(nowhere), secret)
            engine = await stack.enter_async_context(remote("bedrock", url, "demo", **{**given, **options}))
        yield engine
