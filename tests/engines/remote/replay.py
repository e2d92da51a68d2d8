"""A server that answers with bytes as they are written here, and keeps what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

SSE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        pieces: The body, as it is written piece by piece.
        status: Its status.
        headers: Its headers besides the type.
        type: Its content type.
        end: `whole`: the body is complete. `again`: its last piece comes again and again until the client leaves.
            `cut`: the connection is closed in the middle of a chunk. `reset`: it is reset. `hang`: nothing more comes
            until the client leaves. `silent`: there are no headers, either.
    """

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    type: str = SSE
    end: Literal["whole", "again", "cut", "reset", "hang", "silent"] = "whole"


@dataclass(frozen=True, slots=True)
class Question:
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes = b""


class Replay:
    """Answers each POST with the next reply, the last one again and again; knows no other route."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.models = Reply(status=404, type="text/plain")
        self.questions: list[Question] = []
        self.port = 0
        self.connections = 0
        self.left = 0
        """Connections that the client closed while an answer was under way."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> list[Question]:
        return [question for question in self.questions if question.method == "POST"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        text = await reader.readexactly(int(headers.get("content-length", 0)))
        self.questions.append(Question(method, path, headers, json.loads(text) if text else None, text))
        return await self._answer(self.models if method == "GET" else self._next(), reader, writer)

    def _next(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    async def _answer(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if reply.end != "silent":
            extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
            head = (
                f"HTTP/1.1 {reply.status} X\r\nContent-Type: {reply.type}\r\nTransfer-Encoding: chunked\r\n{extra}\r\n"
            )
            writer.write(head.encode())
            for piece in reply.pieces:
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
        match reply.end:
            case "whole":
                writer.write(b"0\r\n\r\n")
                return True
            case "again":
                # The limits that this is for are many times longer than the pause.
                leaving = asyncio.ensure_future(reader.read(1))
                while not (await asyncio.wait((leaving,), timeout=0.01))[0]:
                    writer.write(f"{len(reply.pieces[-1]):x}\r\n".encode() + reply.pieces[-1] + b"\r\n")
                self.left += 1
            case "cut":
                writer.write(b"ff\r\ndata: {")
            case "reset":
                await asyncio.sleep(0)
                transport = writer.transport
                assert isinstance(transport, asyncio.Transport)
                transport.abort()
            case "hang" | "silent":
                await reader.read(1)
                self.left += 1
        return False


@asynccontextmanager
async def replaying(*replies: Reply) -> AsyncIterator[Replay]:
    replay = Replay(*replies)
    server = await asyncio.start_server(replay.serve, "127.0.0.1", 0)
    replay.port = server.sockets[0].getsockname()[1]
    try:
        yield replay
    finally:
        server.close()
