import asyncio
import json

import aiohttp
import pytest

from engines.events import TextDelta
from engines.scripted.script import Hang, Hold
from tests.deployments.http.conftest import HELLO, Serving, until


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [["Hi", Hang()], [Hang()], [Hold(hold_s=60)]], ids=["running", "silent", "queued"])
async def test_a_client_that_leaves_frees_its_slot(serving: Serving, script: list, stream: bool) -> None:
    async with serving(script) as served:
        asked = asyncio.create_task(served.chat(stream=stream))
        await until(lambda: bool(served.engine.plays))
        (play,) = served.engine.plays
        asked.cancel()
        await asyncio.wait([asked])
        await until(lambda: play.context.is_killed and not served.engine.active)
        await until(lambda: served.ingress.in_flight == 0)
        text = (await served.get("/metrics")).body.decode()
    assert 'penstock_client_disconnects_total{endpoint="/v1/chat/completions",model="demo"} 1.0' in text


async def test_every_prompt_of_a_client_that_leaves_is_killed(serving: Serving) -> None:
    async with serving(["Hi", Hang()]) as served:
        body = {"model": "demo", "prompt": ["a", "b", "c"], "stream": True}
        asked = asyncio.create_task(served.post("/v1/completions", body))
        await until(lambda: len(served.engine.active) == 3)
        asked.cancel()
        await until(lambda: not served.engine.active)


async def test_a_stream_that_nobody_reads_holds_text_and_not_events(serving: Serving) -> None:
    """A client reads nothing while far more than the buffers hold is said; then it reads all of it, complete."""
    piece = "x" * 1000
    count = 6_000

    def script(request):
        return (TextDelta(piece) for _ in range(count))

    async with serving(script) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port, limit=2**16)
        body = json.dumps({"model": "demo", "messages": HELLO, "stream": True}).encode()
        head = "POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.transport.pause_reading()
        await until(lambda: bool(served.engine.plays) and not served.engine.active, 60)
        writer.transport.resume_reading()
        received = await reader.read()
        writer.close()
    _, _, text = received.partition(b"\r\n\r\n")
    *lines, done, empty = text.split(b"\n\n")
    assert (done, empty) == (b"data: [DONE]", b"")
    deltas = [json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in lines]
    assert sum(map(len, deltas)) == len(piece) * count
    # Once the buffers were full, what was said became one chunk.
    assert len(deltas) < count


async def test_a_client_that_reads_nothing_is_dropped(serving: Serving) -> None:
    def script(request):
        while True:
            yield "x" * 10_000

    async with serving(script, write_timeout_s=0.2) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port, limit=2**16)
        body = json.dumps({"model": "demo", "messages": HELLO, "stream": True}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.transport.pause_reading()
        await until(lambda: bool(served.engine.plays) and not served.engine.active, 60)
        text = (await served.get("/metrics")).body.decode()
        writer.close()
    assert "penstock_slow_clients_dropped_total 1.0" in text


async def test_two_hundred_streams_at_once(serving: Serving) -> None:
    count = 200

    async def one(client: aiohttp.ClientSession, url: str, index: int) -> str:
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": f"stream number {index} says hello"}],
            "stream": True,
        }
        async with client.post(f"{url}/v1/chat/completions", json=body) as response:
            raw = (await response.read()).decode()
        chunks = [json.loads(line[6:]) for line in raw.split("\n\n")[:-2]]
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

    async with serving() as served:
        texts = await asyncio.gather(*(one(served.client, served.url, index) for index in range(count)))
        assert texts == [f"stream number {index} says hello" for index in range(count)]
        assert served.engine.active == []
        assert served.ingress.in_flight == 0
