"""Clients that take their time, or take nothing: what they hold ends, and others are served meanwhile."""

import asyncio
import json
from pathlib import Path

import pytest

from deployments.http import ingress
from tests.certificates import certificate
from tests.deployments.http.conftest import HELLO, Serving, until

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def test_a_client_that_says_nothing_is_let_go(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "KEEPALIVE_S", 0.2)
    async with serving(["Hi"]) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port)
        await served.still_serves()
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()


async def test_a_handshake_that_does_not_come_ends_its_connection(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ingress, "HANDSHAKE_S", 0.2)
    made, key = certificate(tmp_path)
    async with serving(["Hi"], tls={"certificate": str(made), "key": str(key)}) as served:
        for beginning in (b"", b"\x16\x03\x01\x02\x00\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port)
            writer.write(beginning)
            assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()


async def test_a_body_that_trickles_is_408_however_long_it_could(serving: Serving) -> None:
    async with serving(["Hi"], body_timeout_s=0.3) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port)
        writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")

        async def trickle() -> None:
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        await served.still_serves()
        assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 408 ")
        trickling.cancel()
        writer.close()
        await until(lambda: served.ingress.in_flight == 0)


@pytest.mark.parametrize("logprobs", [False, True], ids=["at once", "in pieces"])
async def test_a_whole_answer_that_is_not_read_is_dropped(serving: Serving, logprobs: bool) -> None:
    async with serving(["x" * 1000] * 30_000, write_timeout_s=0.3) as served:
        body = json.dumps({"model": "demo", "messages": HELLO, "return_token_ids": logprobs}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port, limit=2**16)
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        writer.transport.pause_reading()
        await until(lambda: bool(served.engine.plays))
        await until(lambda: served.ingress.in_flight == 0, 60)
        await until(lambda: not served.ingress._servers[0].connections, 60)
        assert "penstock_slow_clients_dropped_total 1.0" in (await served.get("/metrics")).body.decode()
        writer.close()


async def test_a_client_that_half_closes_is_answered_and_keeps_nothing(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        body = json.dumps({"model": "demo", "messages": HELLO}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port)
        writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 60)
        writer.close()
        await until(lambda: served.ingress.in_flight == 0 and not served.ingress._servers[0].connections)
        await served.still_serves()
