"""What is not HTTP, or badly so: over raw sockets."""

import asyncio
import json
import re
from contextlib import suppress

import pytest

from deployments.http import ingress
from tests.deployments.http.conftest import HELLO, Serving, until

BODY = json.dumps({"model": "demo", "messages": HELLO}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def post(body: bytes = BODY, extra: bytes = b"") -> bytes:
    return HEAD + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        post(extra=b"X-Huge: " + b"a" * 20_000 + b"\r\n"),
        post(extra=b"".join(b"X-%d: a\r\n" % i for i in range(500))),
        post(extra=b"Content-Length: 3\r\n"),
        post(extra=b"Transfer-Encoding: chunked\r\n"),
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["text", "tls", "version", "huge", "many", "lengths", "smuggling", "path"],
)
async def test_bad_http_gets_an_error_of_the_apis_shape(serving: Serving, sent: bytes) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.raw(sent)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert re.match(rb"HTTP/1.. 400 ", head), answer
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
        assert b"x-request-id" in head.lower()
        assert b"Traceback" not in answer
        await served.still_serves()


async def test_a_body_that_is_badly_framed(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert re.match(rb"HTTP/1.. 400 ", answer), answer
        await served.still_serves()


async def test_a_body_that_does_not_come_is_408(serving: Serving) -> None:
    async with serving(["Hi"], body_timeout_s=0.1) as served:
        answer = await served.raw(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"body_timeout" in answer
        await served.still_serves()


async def test_pipelined_requests_are_answered_in_order(serving: Serving) -> None:
    async with serving() as served:
        bodies = [
            json.dumps({"model": "demo", "messages": [{"role": "user", "content": f"n{i}"}], "stream": i == 1}).encode()
            for i in range(3)
        ]
        extra = [b"x-request-id: r0\r\n", b"x-request-id: r1\r\n", b"x-request-id: r2\r\nConnection: close\r\n"]
        answer = await served.raw(b"".join(post(body, more) for body, more in zip(bodies, extra, strict=True)))
    assert [answer.index(b"chatcmpl-r%d" % i) for i in range(3)] == sorted(
        answer.index(b"chatcmpl-r%d" % i) for i in range(3)
    )
    assert answer.count(b"HTTP/1.1 200") == 3


async def test_http_1_0_streams_without_chunks(serving: Serving) -> None:
    body = json.dumps({"model": "demo", "messages": HELLO, "stream": True}).encode()
    async with serving() as served:
        answer = await served.raw(post(body).replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert rest.startswith(b"data: {")
    assert rest.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{"], ids=["nothing", "head", "body"])
async def test_a_client_that_leaves_early_leaves_nothing_behind(serving: Serving, sent: bytes) -> None:
    async with serving(["Hi"]) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port)
        writer.write(sent)
        await writer.drain()
        writer.close()
        await until(lambda: served.ingress.in_flight == 0)
        await served.still_serves()


async def test_request_ids(serving: Serving) -> None:
    async with serving() as served:
        kept = await served.get("/live", headers={"x-request-id": "My-id_1.2"})
        assert kept.headers["x-request-id"] == "My-id_1.2"
        for unsafe in ("a b", "a/b", "x" * 129, "caf\u00e9"):
            made = await served.get("/live", headers={"x-request-id": unsafe})
            assert made.headers["x-request-id"] != unsafe
            assert made.headers["x-request-id"].isalnum()
        answer = await served.post("/v1/chat/completions", {}, headers={"x-request-id": "bad-1"})
        assert (answer.status, answer.headers["x-request-id"]) == (400, "bad-1")


async def test_two_requests_of_one_id_are_two_requests(serving: Serving) -> None:
    body = {"model": "demo", "messages": HELLO}
    headers = {"x-request-id": "same"}
    async with serving([0.05, "Hi"]) as served:
        answers = await asyncio.gather(*(served.post("/v1/chat/completions", body, headers=headers) for _ in range(3)))
        ids = [play.context.id for play in served.engine.plays]
    assert [answer.headers["x-request-id"] for answer in answers] == ["same"] * 3
    assert len(set(ids)) == 3
    assert "same" in ids


async def test_more_connections_than_may_be_are_closed_and_others_are_served(serving: Serving) -> None:
    async with serving(["Hi"], max_connections_per_peer=3) as served:
        held = [await asyncio.open_connection("127.0.0.1", served.ingress.port) for _ in range(3)]
        for reader, writer in held:
            writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        answer = await served.raw(post())
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in answer
        # Another address has its own; in all there is room.
        reader, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port, local_addr=("127.0.0.2", 0))
        writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        for _, other in [*held, (reader, writer)]:
            other.close()
        await until(lambda: not served.ingress._servers[0].connections)
        assert "penstock_connections_refused_total 1.0" in (await served.get("/metrics")).body.decode()


async def test_more_connections_than_may_be_in_all(serving: Serving) -> None:
    async with serving(["Hi"], max_connections=1) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port, local_addr=("127.0.0.2", 0))
        await until(lambda: len(served.ingress._servers[0].connections) == 1)
        assert (await served.raw(post())).startswith(b"HTTP/1.1 503 ")
        writer.close()


async def test_a_connection_that_has_served_long_enough_is_closed_with_its_answer(serving: Serving) -> None:
    async with serving(["Hi"], max_requests_per_connection=2) as served:
        answers = (await served.raw(post() * 3)).split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == [b"200", b"200"]
        assert [b"connection: close" in answer.lower() for answer in answers] == [False, True]


async def test_a_head_that_does_not_come_to_its_end_does_not_hold_a_connection(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress, "KEEPALIVE_S", 0.3)
    async with serving(["Hi"]) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port)

        async def trickle() -> None:
            for byte in HEAD * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.ensure_future(trickle())
        with suppress(ConnectionResetError):  # Closed with a byte on its way.
            assert await asyncio.wait_for(reader.read(), 60) == b""
        trickling.cancel()
        writer.close()
