"""A real ingress on a port of the OS's choice, over scripted engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from deployments.database.storage import Storage
from deployments.fill_in_the_middle import FillInTheMiddle
from deployments.fleet_settings import DatabaseSettings, HttpSettings
from deployments.http.ingress import HttpIngress
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from deployments.model_settings import RoutingSettings
from engines.contract import Engine
from engines.scripted.engine import ScriptedEngine

HELLO = [{"role": "user", "content": "hello there"}]


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: bytes
    json: Any


@dataclass
class Served:
    """An ingress that listens, and a client."""

    ingress: HttpIngress
    fleet: LocalFleet
    metrics: Metrics
    engine: ScriptedEngine
    client: aiohttp.ClientSession
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ingress.port}"

    async def request(self, method: str, path: str, **kwargs: Any) -> Answer:
        async with self.client.request(method, self.url + path, **kwargs) as response:
            body = await response.read()
            json = await response.json() if response.content_type == "application/json" else None
            return Answer(response.status, response.headers, body, json)

    async def get(self, path: str, **kwargs: Any) -> Answer:
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, body: Any = None, **kwargs: Any) -> Answer:
        """Posts a JSON value, or bytes as they are."""
        if isinstance(body, bytes):
            kwargs.setdefault("headers", {}).setdefault("Content-Type", "application/json")
            return await self.request("POST", path, data=body, **kwargs)
        return await self.request("POST", path, json=body, **kwargs)

    async def chat(self, **fields: Any) -> Answer:
        return await self.post("/v1/chat/completions", {"model": "demo", "messages": HELLO, **fields})

    async def raw(self, data: bytes) -> bytes:
        """Sends bytes and reads until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ingress.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 60)
        finally:
            writer.close()

    async def still_serves(self) -> None:
        answer = await self.chat()
        assert answer.status == 200


Serving = Callable[..., Any]


@asynccontextmanager
async def serving_one(
    script: Any = None,
    *,
    engines: list[Engine] | None = None,
    aliases: dict[str, str] | None = None,
    adapters: dict[str, str] | None = None,
    database: DatabaseSettings | None = None,
    fill_in_the_middle: str | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    engine = ScriptedEngine("demo-0", script=script)
    fleet = LocalFleet(
        {"demo": engines if engines is not None else [engine]},
        aliases,
        RoutingSettings(inhibit_s=0),
        adapters=adapters,
        fill_in_the_middle={"demo": FillInTheMiddle.parse(fill_in_the_middle)} if fill_in_the_middle else None,
    )
    await fleet.start()
    metrics = Metrics()
    http = HttpSettings(port=0, **settings)
    storage = None if database is None else Storage(database, http)
    ingress = HttpIngress(fleet, http, metrics, storage=storage)
    await ingress.start()
    client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    try:
        yield Served(ingress, fleet, metrics, engine, client)
    finally:
        await client.close()
        await ingress.stop(0)
        await fleet.stop()


@pytest.fixture
def serving() -> Serving:
    """Serves a script: `async with serving(["Hi"]) as served: ...`."""
    return serving_one


async def until(condition: Callable[[], bool], deadline_s: float = 60.0) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)
