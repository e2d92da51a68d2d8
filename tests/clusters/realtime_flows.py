"""What clients of the Realtime API do, by OpenAI's own client, on the demo fleet."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import openai
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.websocket_reconnection import ReconnectingEvent, ReconnectingOverrides

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


async def say(connection: AsyncRealtimeConnection, text: str) -> None:
    """Adds a message of the user's."""
    content: Any = [{"type": "input_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})


async def done(connection: AsyncRealtimeConnection, cancel_after: int | None = None) -> Any:
    """The next answer; `cancel_after`: so many pieces of it are waited for before it is cancelled."""
    pieces = 0
    async for event in connection:
        assert event.type != "error", event
        if event.type == "response.output_text.delta":
            pieces += 1
            if pieces == cancel_after:
                await connection.response.cancel()
        elif event.type == "response.done":
            return event.response
    raise AssertionError("The connection was closed.")


async def ask(connection: AsyncRealtimeConnection, text: str) -> Any:
    """Says something, and returns the answer."""
    await say(connection, text)
    await connection.response.create(response={"output_modalities": ["text"]})
    return await done(connection)


def text_of(response: Any) -> str:
    """What an answer says."""
    return "".join(part.text or "" for item in response.output for part in getattr(item, "content", ())).strip()


async def all_flows(port: int) -> dict[str, Any]:
    """Each flow's outcome, in one session."""
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    seen: dict[str, Any] = {}
    async with client, client.realtime.connect(model="demo") as connection:
        session: Any = {"type": "realtime", "temperature": 0, "output_modalities": ["text"]}
        await connection.session.update(session=session)
        seen["first"] = text_of(await ask(connection, "count from 3 to 7"))
        seen["second"] = text_of(await ask(connection, "count from 4 to 6"))

        await connection.session.update(session=session | {"tools": [WEATHER]})
        called = await ask(connection, "what is the weather in Lisbon?")
        [call] = called.output
        seen["call"] = (call.name, json.loads(call.arguments))
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 21}'}
        await connection.conversation.item.create(item=output)
        await connection.response.create()
        seen["tool answer"] = text_of(await done(connection))
        await connection.session.update(session=session | {"tools": []})

        content = [{"type": "input_text", "text": "count from 1 to 3"}]
        beside: Any = {"conversation": "none", "input": [{"type": "message", "role": "user", "content": content}]}
        await connection.response.create(response=beside)
        seen["beside"] = text_of(await done(connection))

        await say(connection, "count from 1 to 400")
        await connection.response.create()
        cancelled = await done(connection, cancel_after=3)
        seen["cancelled"] = (cancelled.status, cancelled.status_details.reason)

        for piece in ("count ", "from 7 ", "to 9"):
            await connection.send_raw(json.dumps({"type": "input_text_buffer.append", "text": piece}))
        await connection.send_raw('{"type": "input_text_buffer.commit"}')
        await connection.response.create()
        seen["early"] = text_of(await done(connection))

        await connection.conversation.item.delete(item_id="nothing")
        async for event in connection:
            if event.type == "error":
                seen["error"] = event.error.param
                break
        seen["last"] = text_of(last := await ask(connection, "count from 2 to 4"))
        seen["cached"] = last.usage.input_token_details.cached_tokens
    return seen


async def through_a_routers_end(port: int, end: Callable[[str, int], Awaitable[None]]) -> list[str]:
    """What one session's turns say, of which the last two come after its router has ended.

    Args:
        port: The fleet's.
        end: Ends the router that holds the session, given the session's id and the client's own port.
    """
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    sessions: list[str] = []
    said: list[str] = []

    def reconnecting(event: ReconnectingEvent) -> ReconnectingOverrides:
        return {"extra_query": {**event.extra_query, "session_id": sessions[-1]}}

    async def turn(connection: AsyncRealtimeConnection, text: str) -> None:
        await say(connection, text)
        await connection.response.create(response={"output_modalities": ["text"]})

    connecting = client.realtime.connect(model="demo", on_reconnecting=reconnecting, max_retries=20)
    async with client, connecting as connection:
        session: Any = {"type": "realtime", "temperature": 0, "output_modalities": ["text"]}
        await connection.session.update(session=session)
        await turn(connection, "count from 3 to 7")
        async for event in connection:
            assert event.type != "error", event
            if event.type == "session.created":
                sessions.append(str(event.session.id))
                if len(sessions) == 2:
                    await turn(connection, "count from 5 to 9")
            elif event.type == "response.done":
                said.append(text_of(event.response))
                if len(said) == 1:
                    await end(sessions[0], connection._connection.local_address[1])
                elif len(said) == 2:
                    await turn(connection, "count from 2 to 4")
                else:
                    break
        assert sessions == sessions[:1] * 2, sessions
    return said


class Counting:
    """Sessions that count, turn after turn, until the block ends.

    Args:
        port: The fleet's.
        sessions: How many.
        last: Each turn counts from 1 to this.

    Attributes:
        answers: What the turns have said.
    """

    def __init__(self, port: int, sessions: int, last: int) -> None:
        self.answers: list[str] = []
        self._port = port
        self._sessions = sessions
        self._last = last
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if error is None and self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            asyncio.run(self._count())
        except BaseException as error:  # noqa: BLE001 - raised where the test is
            self._errors.append(error)

    async def _count(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._sessions):
                group.create_task(self._count_in_one())

    async def _count_in_one(self) -> None:
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self._port}/v1", api_key="none", max_retries=0)
        async with client:
            while not self._stop.is_set():
                # The demo model's context is short.
                async with client.realtime.connect(model="demo") as connection:
                    session: Any = {"type": "realtime", "temperature": 0}
                    await connection.session.update(session=session)
                    self.answers.append(text_of(await ask(connection, f"count from 1 to {self._last}")))
