"""Asking for responses in the background."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.deployments.http.conftest import Served
from tests.deployments.http.responses.talking import EVENTS, PATH, ask, checked
from tests.deployments.waiting import until

ENDS = ("completed", "incomplete", "failed", "cancelled")


async def begun(served: Served, **fields: Any) -> str:
    """The id of a new one."""
    answer = await ask(served, background=True, **fields)
    assert answer.status == 200, answer.body
    response = checked(answer.json)
    assert (response["status"], response["background"], response["output"]) == ("queued", True, [])
    assert response["store"] is True and response["usage"] is None
    id: str = response["id"]
    return id


async def look(served: Served, id: str) -> dict[str, Any]:
    """How it stands."""
    answer = await served.get(f"{PATH}/{id}")
    assert answer.status == 200, answer.body
    return checked(answer.json)


async def ended(served: Served, id: str) -> dict[str, Any]:
    """The response, once it has ended."""
    async with asyncio.timeout(60):
        while (response := await look(served, id))["status"] not in ENDS:
            assert response["output"] == []
            await asyncio.sleep(0.02)
        return response


async def stands(served: Served, id: str, status: str) -> None:
    """Returns when it stands so."""

    async def does() -> bool:
        return bool((await look(served, id))["status"] == status)

    await until(does, 60)


class Reader:
    """Reads a stream event by event."""

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        self._lines = lines

    async def event(self) -> dict[str, Any] | None:
        """The next one; None: there is none."""
        async with asyncio.timeout(60):
            async for line in self._lines:
                if line.startswith(b"data: "):
                    event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                    EVENTS[event["type"]].model_validate(event)
                    return event
        return None

    async def rest(self) -> list[dict[str, Any]]:
        """All that come."""
        events = []
        while (event := await self.event()) is not None:
            events.append(event)
        return events

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """Those up to the first of a type."""
        events = []
        while True:
            event = await self.event()
            assert event is not None, events
            events.append(event)
            if event["type"] == kind:
                return events


@asynccontextmanager
async def reading(served: Served, id: str, after: int | None = None) -> AsyncIterator[Reader]:
    """Reads the stream of a response."""
    query = "" if after is None else f"&starting_after={after}"
    async with served.client.get(f"{served.url}{PATH}/{id}?stream=true{query}") as response:
        assert response.status == 200
        yield Reader(aiter(response.content))


def said(events: list[dict[str, Any]]) -> str:
    """The text of a message in events."""
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
