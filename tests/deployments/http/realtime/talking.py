"""A realtime session as a client has it, over a socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from tests.deployments.http.conftest import Served

WAIT_S = 60.0
_EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
_OURS = ("input_text_buffer.",)


class Talk:
    """Sends events, and reads until one of a type comes."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def send(self, type: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"type": type, **fields}))

    async def until(self, type: str) -> dict[str, Any]:
        """The next event of the type; those before it are in `heard`, too. Each is checked by OpenAI's own types."""
        async with asyncio.timeout(WAIT_S):
            while True:
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.PING:
                    continue
                assert message.type is aiohttp.WSMsgType.TEXT, message
                event: dict[str, Any] = json.loads(message.data)
                if not event["type"].startswith(_OURS):
                    _EVENTS.validate_python(event)
                self.heard.append(event)
                if event["type"] == type:
                    return event

    async def says(self, text: str, **response: Any) -> dict[str, Any]:
        """Says something as the user, and returns the answer."""
        content = [{"type": "input_text", "text": text}]
        await self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await self.send("response.create", response=response)
        return await self.done()

    async def done(self) -> dict[str, Any]:
        """The next answer."""
        response: dict[str, Any] = (await self.until("response.done"))["response"]
        return response

    async def refused(self) -> dict[str, Any]:
        """The next error."""
        error: dict[str, Any] = (await self.until("error"))["error"]
        return error

    async def closed(self) -> int | None:
        """The code with which the server closes it."""
        async with asyncio.timeout(WAIT_S):
            while (await self.socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        return self.socket.close_code

    def types(self) -> list[str]:
        return [event["type"] for event in self.heard]


def text_of(response: dict[str, Any]) -> str:
    """What a response says."""
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


@asynccontextmanager
async def talking(served: Served, model: str = "demo", query: str = "", **options: Any) -> AsyncIterator[Talk]:
    url = f"{served.url}/v1/realtime?model={model}{query}"
    async with served.client.ws_connect(url, **options) as socket:
        talk = Talk(socket)
        await talk.until("session.created")
        yield talk
