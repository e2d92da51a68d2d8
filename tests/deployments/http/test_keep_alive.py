"""A stream that is silent sends comments, so that proxies keep its connection."""

import asyncio
import json

import openai
import pytest

from deployments.http import ingress
from deployments.http.openai.chat_chunks import ChatChunks
from deployments.http.openai.stream_format import CompletionStream
from deployments.http.server.sse_stream import KEEP_ALIVE_S, Flusher, SseStream
from deployments.http.server.stream_format import StreamReport
from deployments.http.server.unread import Unread
from deployments.request_meter import RequestMeter
from engines.events import Finished, Started, TextDelta, Usage
from engines.scripted.script import Hang
from tests.deployments.http.conftest import HELLO, Serving, until
from tests.deployments.http.server.scripted_streams import Pipe

KEEP_ALIVE = CompletionStream.keep_alive.encode()


def test_proxies_wait_for_longer_than_the_longest_silence() -> None:
    assert KEEP_ALIVE_S * 4 / 3 < 30


@pytest.fixture
async def opened() -> tuple[SseStream, Pipe]:
    chunks = CompletionStream("id", "chat.completion.chunk", "m", 1, StreamReport(), request_id="1")
    stream = SseStream(chunks, Flusher(keep_alive_s=3600.0), RequestMeter("test"))
    stream.sink([ChatChunks(chunks, 0)]).emit(Started("e", "m"))
    pipe = Pipe()
    stream.open(pipe)
    return stream, pipe


async def test_only_silence_is_filled(opened: tuple[SseStream, Pipe]) -> None:
    stream, pipe = opened
    sink = stream._sinks[0]
    for _ in range(20):
        sink.emit(TextDelta("x"))
        await asyncio.sleep(0)
        for _ in range(3):
            stream.tick()
    assert KEEP_ALIVE not in pipe.writes
    for _ in range(6):
        stream.tick()
    # The silence of the last three ticks counts; then every third.
    assert pipe.writes[-3:].count(KEEP_ALIVE) == 2
    stream.close()


async def test_a_client_that_does_not_keep_up_is_sent_nothing(opened: tuple[SseStream, Pipe]) -> None:
    stream, pipe = opened
    pipe.writable = False
    for _ in range(20):
        stream.tick()
    assert pipe.writes == []
    stream.close()


async def test_nothing_follows_the_end(opened: tuple[SseStream, Pipe]) -> None:
    stream, pipe = opened
    stream._sinks[0].emit(Finished(("stop",), Usage(), "e"))
    for _ in range(20):
        stream.tick()
    assert pipe.writes == []
    stream.close()
    stream.tick()
    assert pipe.writes == []


async def test_there_is_one_timer_and_none_when_nothing_streams(opened: tuple[SseStream, Pipe]) -> None:
    stream, _ = opened
    flusher = stream._flusher
    assert flusher._timer is not None
    stream.close()
    stream.close()
    assert (flusher._timer, flusher._open) == (None, {})


async def test_a_silent_stream_is_kept_alive_before_its_first_token_and_after(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushers: list[Flusher] = []

    def brisk(unread: Unread) -> Flusher:
        flushers.append(Flusher(unread, keep_alive_s=0.15))
        return flushers[-1]

    monkeypatch.setattr(ingress, "Flusher", brisk)
    async with serving([0.5, "Hi", 0.5, " you"]) as served:
        answer = await served.chat(stream=True)
        client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
        stream = await client.chat.completions.create(model="demo", messages=HELLO, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hi you"
    pieces = [piece for piece in answer.body.split(b"\n\n") if piece]
    comments = [at for at, piece in enumerate(pieces) if piece == b": keep-alive"]
    said = [at for at, piece in enumerate(pieces) if piece.startswith(b"data: {")]
    assert len(said) + len(comments) + 1 == len(pieces)
    assert comments[0] < said[0], "silence before the first token"
    first = next(at for at in said if json.loads(pieces[at][6:])["choices"][0]["delta"].get("content") == "Hi")
    second = next(at for at in said if json.loads(pieces[at][6:])["choices"][0]["delta"].get("content") == " you")
    assert [at for at in comments if first < at < second], "silence in the middle"
    assert not flushers[0]._open


async def test_a_client_that_leaves_is_not_kept_alive(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    flusher = Flusher()
    monkeypatch.setattr(ingress, "Flusher", lambda _: flusher)
    async with serving(["Hi", Hang()]) as served:
        asked = asyncio.create_task(served.chat(stream=True))
        await until(lambda: bool(flusher._open))
        asked.cancel()
        await until(lambda: not flusher._open)
