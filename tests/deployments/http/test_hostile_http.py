"""Requests that two servers could read in two ways, and streams of bytes that never become one: over raw sockets."""

import asyncio
import json
import re

import pytest

from deployments.http import ingress
from engines.scripted.script import Hang
from tests.deployments.http.conftest import HELLO, Served, Serving, until

BODY = json.dumps({"model": "demo", "messages": HELLO}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZE = b"%x" % len(BODY)
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


def get(target: bytes, extra: bytes = b"", host: bytes = b"Host: localhost\r\n") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + host + extra + b"Connection: close\r\n\r\n"


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+) ", answer)]


FRAMINGS = [
    b"Content-Length: +5",
    b"Content-Length: -1",
    b"Content-Length: 0x5",
    b"Content-Length: 1_0",
    b"Content-Length: 5, 5",
    b"Content-Length: 5 5",
    b"Content-Length:",
    b"Content-Length : 5",
    b"Content-Length:\x0b5",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer_Encoding: chunked\r\nContent-Length: 5",
    b"X: a\r\n folded",
    b"X: a\nTransfer-Encoding: chunked",
    b"X: a\rTransfer-Encoding: chunked",
    b"X\x00: a",
    b"X: a\x00b",
    b"x-request-id: a\x01b",
    b"x-request-id: a\rSet-Cookie: b",
    b": a",
    b"X",
    b"Host: evil.example",
    b"Content-Type: text/plain",
]


@pytest.mark.parametrize("header", FRAMINGS, ids=repr)
async def test_a_head_that_can_be_read_in_two_ways_ends_the_connection(serving: Serving, header: bytes) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.raw(HEAD + header + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)
        assert statuses(answer) == [400]
        assert b"set-cookie" not in answer.lower()
        assert not served.engine.requests
        await served.still_serves()


@pytest.mark.parametrize(
    "chunks",
    [
        b"+" + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"0x" + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"0_" + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"-1\r\n",
        b"f" * 30 + b"\r\n",
        SIZE + b"\n" + BODY + b"\n0\n\n",
        SIZE + b";\n\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"5\r\n" + BODY + b"\r\n0\r\n\r\n",
        SIZE + b"\r\n" + BODY + b"\r\n0\r\nContent-Length: 5\r\n\r\n",
    ],
    ids=["plus", "hex", "underscore", "negative", "huge", "newlines", "extension", "short", "trailer"],
)
async def test_a_chunk_that_can_be_read_in_two_ways_ends_the_connection(serving: Serving, chunks: bytes) -> None:
    async with serving(["Hi"]) as served:
        assert statuses(await served.raw(CHUNKED + chunks + SMUGGLED)) == [400]
        assert not served.engine.requests
        await served.still_serves()


@pytest.mark.parametrize(
    "chunks",
    [
        SIZE + b';a=b;c="d"\r\n' + BODY + b"\r\n0\r\n\r\n",
        SIZE + b";" + b"a" * 1_000_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"0" * 1000 + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
        SIZE + b"\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n",
        b"".join(b"1;%b\r\n%c\r\n" % (b"x" * 200, byte) for byte in BODY) + b"0\r\n\r\n",
    ],
    ids=["extension", "long", "zeros", "trailer", "many"],
)
async def test_what_chunks_say_besides_their_bytes_changes_nothing(serving: Serving, chunks: bytes) -> None:
    async with serving(["Hi"]) as served:
        assert statuses(await served.raw(CHUNKED + chunks)) == [200]
        assert len(served.engine.requests) == 1


async def test_a_body_in_tiny_chunks_is_refused_and_others_are_served(serving: Serving) -> None:
    """A chunk costs the same whatever it holds: a megabyte of single bytes would keep the process busy for seconds."""
    async with serving(["Hi"], body_timeout_s=600) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port)
        writer.write(CHUNKED)

        async def flood() -> None:
            while True:
                writer.write(b"1\r\n \r\n" * 1000)
                await writer.drain()

        flooding = asyncio.create_task(flood())
        await served.still_serves()
        answer = await asyncio.wait_for(reader.readuntil(b"chunks of too few bytes"), 60)
        assert statuses(answer) == [400]
        # It is not read on for as long as the client sends.
        await asyncio.wait([flooding], timeout=60)
        assert isinstance(flooding.exception(), ConnectionError)
        writer.close()
        await served.still_serves()


async def test_many_small_chunks_are_a_body_like_any_other(serving: Serving) -> None:
    def chunks(body: bytes, size: int) -> bytes:
        pieces = (body[at : at + size] for at in range(0, len(body), size))
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    async with serving(["Hi"]) as served:
        assert statuses(await served.raw(CHUNKED + chunks(BODY + b" " * 40_000, 1))) == [200]
        assert statuses(await served.raw(CHUNKED + chunks(BODY + b" " * 4_000_000, 64))) == [200]


TARGETS = [
    (b"/v1/%6dodels", 200),
    (b"//metrics", 404),
    (b"/./metrics", 404),
    (b"/live/../metrics", 404),
    (b"/%2e%2e/metrics", 404),
    (b"/live%2f..%2fmetrics", 404),
    (b"/metrics/", 404),
    (b"/metrics;x", 404),
    (b"/metrics%00", 404),
    (b"/v1\\models", 404),
    (b"/v1/models/..%2f..%2fetc%2fpasswd", 404),
    (b"/v1/models/%00", 404),
    (b"/v1/models/%0d%0aX-Injected:%201", 404),
    (b"/v1/models/%ff", 404),
    (b"/v1/models/%ed%a0%80", 404),
    (b"/v1/models/" + b"%41" * 2000, 404),
    (b"/%", 404),
    (b"/\xff", 400),
    (b"/\x01", 400),
    (b"", 400),
    (b"*", 400),
    (b"?x", 400),
    (b"evil.example:443", 400),
    (b"http://localhost/ready", 200),
    (b"http://user:word@localhost/ready", 403),
    (b"http://evil.example/ready", 403),
    (b"ftp://evil.example/ready", 403),
    (b"http://[::1/ready", 400),
    (b"http://localhost:99999/ready", 400),
    (b"file:///etc/passwd", 400),
]


@pytest.mark.parametrize(("target", "status"), TARGETS, ids=[repr(target)[:40] for target, _ in TARGETS])
async def test_odd_targets_lead_nowhere(serving: Serving, target: bytes, status: int) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.raw(get(target))
        assert statuses(answer) == [status]
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"x-injected" not in head.lower()
        assert len(body) < 1500
        await served.still_serves()


@pytest.mark.parametrize("method", [b"FROB", b"get", b"A" * 9000, b"TRACE", b"OPTIONS", b"DELETE"], ids=lambda m: m[:8])
async def test_other_methods_do_nothing(serving: Serving, method: bytes) -> None:
    async with serving(["Hi"]) as served:
        sent = method + b" /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert statuses(await served.raw(sent)) in ([400], [405])
        override = b"X-HTTP-Method-Override: POST\r\n"
        assert statuses(await served.raw(get(b"/v1/completions", override))) == [405]
        await served.still_serves()


async def test_what_a_proxy_would_say_of_the_client_is_not_believed(serving: Serving) -> None:
    claims = b"X-Forwarded-Host: localhost\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: host=localhost\r\n"
    async with serving(["Hi"], max_connections_per_peer=1) as served:
        assert statuses(await served.raw(get(b"/ready", claims, host=b"Host: evil.example\r\n"))) == [403]
        _, held = await asyncio.open_connection("127.0.0.1", served.ingress.port)
        await until(lambda: len(served.ingress._servers[0].connections) == 1)
        assert statuses(await served.raw(get(b"/ready", b"X-Forwarded-For: 192.0.2.1\r\n"))) == [503]
        held.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"GET /ready\r\n",
        b"\r\n" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["connect", "gzip", "http-0.9", "newlines", "http-2"],
)
async def test_other_protocols_get_nothing_and_no_connection(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(ingress, "KEEPALIVE_S", 0.3)
    async with serving(["Hi"], body_timeout_s=0.3) as served:
        assert 200 not in statuses(await served.raw(sent))
        assert not served.engine.requests
        await served.still_serves()


async def _stuck(served: Served, first: bytes, piece: bytes) -> int:
    """Sends until the server takes no more; how many bytes it took."""
    _, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port)
    writer.write(first)
    await until(lambda: bool(served.engine.active))
    taken = 0
    try:
        while taken < 256 * 2**20:
            writer.write(piece)
            async with asyncio.timeout(1.0):
                await writer.drain()
            taken += len(piece)
            await served.get("/live")
    except TimeoutError:
        return taken
    finally:
        writer.transport.abort()
    raise AssertionError("it takes whatever comes")


@pytest.mark.parametrize(
    "piece",
    [
        b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5000,
        HEAD + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000,
        b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"x" * 200_000,
    ],
    ids=["requests", "bodies", "upgraded"],
)
async def test_what_comes_behind_a_request_waits_with_the_client(serving: Serving, piece: bytes) -> None:
    async with serving([Hang()]) as served:
        first = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
        # What the sockets of both sides hold, which is the system's choice.
        assert await _stuck(served, first, piece) < 64 * 2**20
        assert (await served.get("/ready")).status == 200
