"""The gateways in front of remote subjects: they refuse what the provider refuses, and hold nothing back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engines.completion import collect
from engines.context import Context
from engines.contract import Engine
from engines.errors import Cancelled, ContextOverflow, InstanceLost, ProviderRefused, RateLimited
from tests.contract.asking import DEADLINE_S, Recorder, eventually
from tests.contract.azure_gateway import API_VERSION, AzureGateway
from tests.contract.bedrock_gateway import VERSION, BedrockGateway
from tests.contract.remotes import AZURE_KEY, BEDROCK_MODEL, DEPLOYMENT, REGION, azure, bedrock
from tests.engines.remote.aws import set_account
from tests.engines.remote.replay import Replay, Reply, replaying
from tests.engines.remote.test_anthropic import START, STREAMS, TEXT, sse
from tests.engines.remote.wire import chunk, request

BEGUN = {"azure": chunk({"content": "Zoë 水車"}), "bedrock": START + TEXT}
ERROR = sse({"type": "error", "error": {"type": "internal_error", "message": "It failed."}})
QUESTION = {"anthropic_version": VERSION, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}


def asking(kind: str, replay: Replay, **options: Any) -> AbstractAsyncContextManager[Engine]:
    return {"azure": azure, "bedrock": bedrock}[kind](replay.url, **options)


@pytest.mark.parametrize("kind", ["azure", "bedrock"])
async def test_pieces_are_not_held_back_and_a_client_that_leaves_ends_the_request_behind(kind: str) -> None:
    async with replaying(Reply([BEGUN[kind]], end="hang")) as replay, asking(kind, replay) as engine:
        context, recorder = Context(), Recorder()
        async with asyncio.timeout(DEADLINE_S):
            await engine.submit(request(), context, recorder)
        await eventually(lambda: recorder.text == "Zoë 水車")
        assert replay.left == 0
        context.kill()
        await recorder.over()
        assert isinstance(recorder.error, Cancelled)
        await eventually(lambda: replay.left == 1)


@pytest.mark.parametrize("kind", ["azure", "bedrock"])
async def test_a_client_that_leaves_before_the_first_byte_ends_the_request_behind(kind: str) -> None:
    async with replaying(Reply(end="silent")) as replay, asking(kind, replay) as engine:
        reading = asyncio.ensure_future(collect(engine.generate(request(), Context())))
        await eventually(lambda: len(replay.posts) == 1)
        reading.cancel()
        await eventually(lambda: replay.left == 1)


@pytest.mark.parametrize("kind", ["azure", "bedrock"])
async def test_a_stream_that_breaks_behind_it_breaks(kind: str) -> None:
    async with replaying(Reply([BEGUN[kind]], end="reset")) as replay, asking(kind, replay) as engine:
        with pytest.raises(InstanceLost):
            await collect(engine.generate(request(), Context()))


@pytest.mark.parametrize("kind", ["azure", "bedrock"])
async def test_the_servers_own_refusals_are_passed_on(kind: str) -> None:
    said = {"type": "error", "error": {"message": "prompt is too long: 9000 tokens > 8192 maximum"}}
    refusals = [Reply([json.dumps(said).encode()], status, type="application/json") for status in (400, 429)]
    async with replaying(*refusals) as replay, asking(kind, replay) as engine:
        for expected in (ContextOverflow, RateLimited):
            with pytest.raises(expected):
                await collect(engine.generate(request(), Context()))


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("azure", {"key": "other"}, "unauthorized"),
        ("azure", {"deployment": "other"}, "unknown_model"),
        ("azure", {"api_version": "2020-01-01"}, "unknown_model"),
        ("bedrock", {"secret": "other"}, "unauthorized"),
        ("bedrock", {"region": "us-east-1"}, "unauthorized"),
        ("bedrock", {"model": "eu.anthropic.other-v1:0"}, "unknown_model"),
    ],
)
async def test_who_may_not_ask_is_refused_and_nothing_is_asked(kind: str, options: dict[str, str], reason: str) -> None:
    async with replaying(Reply([BEGUN[kind]])) as replay:
        with pytest.raises(ProviderRefused) as caught:
            async with asking(kind, replay, **options) as engine:
                await collect(engine.generate(request(), Context()))
        assert caught.value.reason == reason
        assert not replay.questions


async def test_azure_refuses_what_the_engine_never_sends() -> None:
    gateway = AzureGateway("http://127.0.0.1:9", AZURE_KEY, {DEPLOYMENT: "model"})
    path = f"/openai/deployments/{DEPLOYMENT}/chat/completions"
    body = {"messages": [], "stream": True, "top_k": 3}
    async with gateway.listening() as url, aiohttp.ClientSession(url, headers={"api-key": AZURE_KEY}) as client:
        async with client.post(path, json=body) as answer:
            assert answer.status == 404, "no api-version"
        async with client.post(f"{path}?api-version={API_VERSION}", json=body) as answer:
            assert answer.status == 400
            assert "top_k" in (await answer.json())["error"]["message"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer key"}])
async def test_bedrock_refuses_what_is_not_signed(headers: dict[str, str]) -> None:
    gateway = BedrockGateway("http://127.0.0.1:9", REGION, {BEDROCK_MODEL: "demo"})
    path = f"/model/{BEDROCK_MODEL}/invoke"
    async with (
        gateway.listening() as url,
        aiohttp.ClientSession(url, headers=headers) as client,
        client.post(path, json=QUESTION) as answer,
    ):
        assert answer.status == 403
        assert answer.headers["x-amzn-ErrorType"].startswith("MissingAuthenticationTokenException")


@asynccontextmanager
async def bedrock_gateway(reply: Reply) -> AsyncIterator[tuple[str, Replay]]:
    """Where it answers, and the server behind it."""
    async with (
        replaying(reply) as replay,
        BedrockGateway(replay.url, REGION, {BEDROCK_MODEL: "demo"}).listening() as url,
    ):
        yield url, replay


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("botocore")
    set_account(monkeypatch, tmp_path)


def aws_client(url: str) -> Any:
    """AWS's own client of Bedrock; it blocks."""
    config = import_module("botocore.config").Config(retries={"max_attempts": 0})
    session = import_module("botocore.session").Session()
    return session.create_client("bedrock-runtime", region_name=REGION, endpoint_url=url, config=config)


def read_stream(url: str) -> list[Any]:
    """The events of an answer, as AWS's own client reads them."""
    answer = aws_client(url).invoke_model_with_response_stream(
        modelId=BEDROCK_MODEL, body=json.dumps(QUESTION), contentType="application/json"
    )
    return [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]


async def test_awss_own_client_reads_the_stream(account: None) -> None:
    stream = STREAMS["text"][0]
    async with bedrock_gateway(Reply([stream])) as (url, replay):
        events = await asyncio.to_thread(read_stream, url)
        theirs = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: ")]
        assert events == [event for event in theirs if event["type"] != "ping"]
        (asked,) = replay.questions
        rest = {name: value for name, value in QUESTION.items() if name != "anthropic_version"}
        assert asked.path == "/v1/messages"
        assert asked.body == {**rest, "model": "demo", "stream": True}


async def test_awss_own_client_reads_a_failure_in_the_stream(account: None) -> None:
    broken = import_module("botocore.exceptions").EventStreamError
    async with bedrock_gateway(Reply([START + TEXT + ERROR])) as (url, _):
        with pytest.raises(broken, match="modelStreamError"):
            await asyncio.to_thread(read_stream, url)


async def test_awss_own_client_reads_a_whole_answer_and_a_refusal(account: None) -> None:
    message = {"type": "message", "content": [{"type": "text", "text": "Hi"}]}

    def read(url: str, body: dict[str, Any]) -> Any:
        answer = aws_client(url).invoke_model(
            modelId=BEDROCK_MODEL, body=json.dumps(body), contentType="application/json"
        )
        return json.loads(answer["body"].read())

    async with bedrock_gateway(Reply([json.dumps(message).encode()], type="application/json")) as (url, replay):
        assert await asyncio.to_thread(read, url, QUESTION) == message
        assert replay.questions[0].body["stream"] is False
        refused = import_module("botocore.exceptions").ClientError
        wrong_bodies: list[dict[str, Any]] = [{**QUESTION, "model": "demo"}, {**QUESTION, "stream": True}, {}]
        for wrong in wrong_bodies:
            with pytest.raises(refused, match="ValidationException"):
                await asyncio.to_thread(read, url, wrong)
        assert len(replay.questions) == 1
