"""What waits for clients that do not read is bounded, for each stream and in all."""

import asyncio
import json
import socket
from typing import Any

import pytest

from deployments.http.openai.chat_chunks import ChatChunks
from deployments.http.openai.stream_format import CompletionStream
from deployments.http.server.sse_stream import Flusher, SseStream
from deployments.http.server.stream_format import StreamReport
from deployments.http.server.unread import Unread
from deployments.request_meter import RequestMeter
from engines.contract import Load
from engines.errors import ReaderTooSlow
from engines.events import Started, TextDelta
from engines.registry import EngineSpec
from engines.simulated.engine import SimulatedEngine
from engines.simulated.options import SimulatedOptions
from tests.deployments.http.conftest import HELLO, Served, Serving, until
from tests.deployments.http.server.scripted_streams import Pipe


class Stream:
    def __init__(self) -> None:
        self.given_up = False

    def give_up(self) -> None:
        self.given_up = True


def test_a_stream_past_its_bound_is_given_up() -> None:
    unread = Unread(10, 100)
    one, other = Stream(), Stream()
    unread.note(one, 10)
    unread.note(other, 11)
    assert (one.given_up, other.given_up, unread.bytes) == (False, True, 10)
    unread.note(one, 4)
    assert unread.bytes == 4
    unread.forget(one)
    unread.forget(one)
    assert unread.bytes == 0


def test_past_the_bound_for_all_the_largest_are_given_up() -> None:
    unread = Unread(10, 20)
    streams = [Stream() for _ in range(4)]
    for stream, size in zip(streams, (9, 3, 8, 7), strict=True):
        unread.note(stream, size)
    assert [stream.given_up for stream in streams] == [True, False, False, False]
    assert unread.bytes == 18


def blocked(unread: Unread) -> tuple[SseStream, Any, Pipe]:
    chunks = CompletionStream("chatcmpl-1", "chat.completion.chunk", "demo", 1, StreamReport(), request_id="1")
    stream = SseStream(chunks, Flusher(unread), RequestMeter("test"))
    sink = stream.sink([ChatChunks(chunks, 0)])
    pipe = Pipe()
    stream.open(pipe)
    sink.emit(Started("engine", "demo"))
    pipe.writable = False
    return stream, sink, pipe


async def test_what_waits_is_counted_while_the_client_is_blocked_and_no_longer() -> None:
    unread = Unread(10**9, 10**9)
    stream, sink, pipe = blocked(unread)
    sink.emit(TextDelta("x" * 1000))
    await asyncio.sleep(0)
    assert 1000 <= unread.bytes < 1500
    await asyncio.sleep(0.15)
    pipe.unsent = 10_000
    sink.emit(TextDelta("y" * 1000))
    await asyncio.sleep(0)
    assert 12_000 <= unread.bytes < 12_500
    pipe.writable = True
    stream.flush()
    assert unread.bytes == 0
    assert b"x" * 1000 + b"y" * 1000 in pipe.writes[0]


async def test_a_stream_that_is_given_up_says_so_and_keeps_nothing() -> None:
    stream, sink, _ = blocked(Unread(1000, 10**9))
    sink.emit(TextDelta("x" * 2000))
    await asyncio.sleep(0)
    with pytest.raises(ReaderTooSlow):
        await stream.ended
    rest = stream.take()
    assert b"xx" not in rest
    assert b"reader_too_slow" in rest


async def test_an_answer_that_ended_and_is_not_read_is_cut() -> None:
    unread = Unread(10**9, 1000)
    stream, sink, pipe = blocked(unread)
    sink.emit(TextDelta("x" * 500))
    await asyncio.sleep(0)
    stream.ended.set_result(None)
    unread.note(Stream(), 10)
    assert not pipe.aborted
    unread.note(stream, 1200)
    assert pipe.aborted


async def _deaf(served: Served, body: dict[str, Any]) -> socket.socket:
    """Asks, and reads nothing."""
    data = json.dumps(body).encode()
    sent = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + sent
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", served.ingress.port))
    await asyncio.get_running_loop().sock_sendall(deaf, head % len(data) + data)
    return deaf


async def test_the_slot_of_a_client_that_does_not_read_is_freed(serving: Serving) -> None:
    options = SimulatedOptions.model_validate({"step_time": {"base_s": 0.001}, "context_length": 100_000})
    engine = SimulatedEngine("demo-0", EngineSpec(kind="simulated", model="demo"), options)
    async with serving(engines=[engine], unread_stream_bytes=2**20) as served:
        body = {"model": "demo", "messages": HELLO, "stream": True, "max_tokens": 50_000, "ignore_eos": True}
        deaf = await _deaf(served, {**body, "n": 8, "logprobs": True, "top_logprobs": 20})
        await until(lambda: engine.load().running > 0)
        await until(lambda: engine.load() == Load(), 60.0)
        deaf.close()
        await until(lambda: served.metrics.in_flight == 0)
        assert "penstock_unread_streams_ended_total 1.0" in (await served.get("/metrics")).body.decode()
        await served.still_serves()
