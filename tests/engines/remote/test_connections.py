"""Connections of remote engines: kept ones that are closed, and servers that prove who they are, or do not."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engines.completion import collect
from engines.context import Context
from engines.contract import Engine
from engines.errors import EngineFailed, InstanceLost
from engines.registry import EngineSpec, make_engine
from engines.remote import connections
from tests.certificates import certificate
from tests.engines.remote.replay import Replay, Reply
from tests.engines.remote.wire import TEXT, request

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(TEXT), TEXT)


class Closing:
    """Answers the first request of each connection, where it may, and ends the connection at the next one.

    Attributes:
        first: Connections whose first request is answered; later ones end at once.
        last: What is written before the end of a connection.
        reset: Whether it ends with a reset.
        connections: How many there were for requests; the one for the models is closed at once.
        requests: How many came.
    """

    def __init__(self, *, first: int = 100, last: bytes = b"", reset: bool = False) -> None:
        self.first = first
        self.last = last
        self.reset = reset
        self.connections = 0
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers: int | None = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    writer.write(b"HTTP/1.1 404 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    writer.close()
                    return
                if answers is None:
                    self.connections += 1
                    answers = int(self.connections <= self.first)
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.split(b":")[1]))
                self.requests += 1
                if not answers:
                    break
                answers -= 1
                writer.write(ANSWER)
        except asyncio.IncompleteReadError:
            pass
        writer.write(self.last)
        if self.reset:
            writer.transport.abort()
        writer.close()


@asynccontextmanager
async def asking(port: int, **options: Any) -> AsyncIterator[Engine]:
    scheme = options.pop("scheme", "http")
    given = {"base_url": f"{scheme}://127.0.0.1:{port}/v1", **options}
    engine = make_engine("remote-0", EngineSpec(kind="openai", model="model", options=given))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(5)


@asynccontextmanager
async def closing(server: Closing) -> AsyncIterator[Engine]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening, asking(listening.sockets[0].getsockname()[1]) as engine:
        yield engine


async def answer(engine: Engine) -> str:
    async with asyncio.timeout(60):
        return (await collect(engine.generate(request(), Context()))).text


@pytest.mark.parametrize("reset", [False, True])
async def test_a_kept_connection_that_was_closed_is_made_anew(reset: bool) -> None:
    server = Closing(reset=reset)
    async with closing(server) as engine:
        for _ in range(2):
            assert await answer(engine)
        assert (server.requests, server.connections) == (3, 2)


async def test_a_request_is_sent_again_once() -> None:
    server = Closing(first=1)
    async with closing(server) as engine:
        assert await answer(engine)
        with pytest.raises(InstanceLost):
            await answer(engine)
        assert server.requests == 3


async def test_a_request_that_went_over_a_new_connection_is_not_sent_again() -> None:
    server = Closing(first=0)
    async with closing(server) as engine:
        with pytest.raises(InstanceLost):
            await answer(engine)
        assert server.requests == 1


@pytest.mark.parametrize("last", [b"H", b"HTTP/1.1 200 OK\r\nConte"])
async def test_a_request_whose_answer_began_is_not_sent_again(last: bytes) -> None:
    server = Closing(last=last)
    async with closing(server) as engine:
        assert await answer(engine)
        with pytest.raises(InstanceLost):
            await answer(engine)
        assert server.requests == 2


async def test_a_server_that_had_the_request_for_a_while_does_not_get_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_STALE_S", 0.0)
    server = Closing()
    async with closing(server) as engine:
        assert await answer(engine)
        with pytest.raises(InstanceLost):
            await answer(engine)
        assert server.requests == 2


@asynccontextmanager
async def proving(files: tuple[Path, Path]) -> AsyncIterator[Replay]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    replay = Replay(Reply([TEXT]))
    async with await asyncio.start_server(replay.serve, "127.0.0.1", 0, ssl=context) as server:
        replay.port = server.sockets[0].getsockname()[1]
        yield replay


async def test_a_server_that_nobody_vouches_for_is_not_asked(tmp_path: Path) -> None:
    async with proving(certificate(tmp_path)) as replay, asking(replay.port, scheme="https") as engine:
        with pytest.raises(InstanceLost, match="ca_file") as caught:
            await answer(engine)
        assert "127.0.0.1" not in caught.value.message and caught.value.instance == "remote-0"
        assert not replay.questions


async def test_a_server_of_an_authority_that_is_named_is_asked(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with proving(files) as replay, asking(replay.port, scheme="https", ca_file=str(files[0])) as engine:
        assert await answer(engine)
        await engine.check_health()


@pytest.mark.parametrize(("wrong", "said"), [({"name": "127.0.0.2"}, "another name"), ({"days": -1}, "over")])
async def test_a_trusted_certificate_must_still_be_right(wrong: Any, said: str, tmp_path: Path) -> None:
    files = certificate(tmp_path, **wrong)
    async with proving(files) as replay, asking(replay.port, scheme="https", ca_file=str(files[0])) as engine:
        with pytest.raises(InstanceLost, match=said):
            await answer(engine)
        assert not replay.questions


@pytest.mark.parametrize("text", [None, "no certificate"])
async def test_a_file_without_authorities_is_said(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises(EngineFailed, match="ca_file") as caught:
        async with asking(1, ca_file=str(file)):
            pass
    assert str(tmp_path) not in caught.value.message


async def test_a_server_that_speaks_no_tls_is_lost() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 This is no TLS\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening, asking(listening.sockets[0].getsockname()[1], scheme="https") as engine:
        with pytest.raises(InstanceLost):
            await answer(engine)
