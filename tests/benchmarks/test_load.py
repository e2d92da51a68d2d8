import asyncio
import json
from collections.abc import AsyncIterator
from itertools import count

import pytest
from aiohttp import web

from tests.benchmarks.connection import Connection
from tests.benchmarks.load import LoadSpec
from tests.benchmarks.load_process import LoadFailed, measure
from tests.benchmarks.processes import Role
from tests.benchmarks.prompts import chat_request, prompt


class EchoServer:
    """Answers with as many tokens as were asked for, but for one request with one less."""

    def __init__(self, wrong: int | None) -> None:
        self.port = 0
        self.prompts: list[str] = []
        self._numbers = count()
        self._wrong = wrong

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.prompts.append(body["messages"][0]["content"])
        tokens = body["max_tokens"] - (next(self._numbers) == self._wrong)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(tokens):
            await response.write(_event({"choices": [{"index": 0, "delta": {"content": "x"}}]}))
        await response.write(_event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}))
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@pytest.fixture(params=[None])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[EchoServer]:
    echo = EchoServer(request.param)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", echo.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    echo.port = runner.addresses[0][1]
    yield echo
    await runner.cleanup()


def spec(port: int) -> LoadSpec:
    return LoadSpec("127.0.0.1", port, "echo", clients=4, duration_s=0.3, tokens=20, seed=3, limit_s=60)


async def test_the_load_counts_every_answer_and_asks_nothing_twice(server: EchoServer) -> None:
    measured = await measure(spec(server.port), server_pid=1_999_999_999)
    load = measured.load
    assert load.requests == len(server.prompts) >= 4
    assert load.tokens == 20 * load.requests
    assert load.events == 22 * load.requests
    assert load.prompt_tokens == 5
    assert 0 < load.ttft_p50_s <= load.ttft_p99_s < load.wall_s
    assert load.client_cpu_s > 0
    assert len(set(server.prompts)) == len(server.prompts)
    assert measured.cpu_per_token_s(Role.ROUTER) == 0.0


@pytest.mark.parametrize("server", [5], indirect=True)
async def test_one_wrong_answer_fails_the_load(server: EchoServer) -> None:
    with pytest.raises(LoadFailed, match="19 tokens"):
        await measure(spec(server.port), server_pid=1_999_999_999)


async def test_nobody_listening_fails_the_load(unused_tcp_port: int) -> None:
    with pytest.raises(LoadFailed, match="Connect"):
        await measure(spec(unused_tcp_port), server_pid=1_999_999_999)


async def test_a_connection_serves_one_request_after_another(server: EchoServer) -> None:
    connection = await Connection.open("127.0.0.1", server.port)
    request = chat_request("127.0.0.1", "echo", prompt(1, 1), 5)
    for _ in range(3):
        answer = await asyncio.wait_for(connection.post(request, 5), 10)
        assert answer.ttft_s >= 0
        assert len(answer.gaps_s) < 6
    connection.close()


def test_prompts_repeat_by_seed_and_differ_by_number() -> None:
    assert prompt(1, 2) == prompt(1, 2)
    assert len({prompt(seed, number) for seed in range(10) for number in range(100)}) == 1000
