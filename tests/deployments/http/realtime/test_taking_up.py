"""A session outlives its router replica: another one takes it up from the database."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI
from openai.types.websocket_reconnection import ReconnectingEvent, ReconnectingOverrides

from deployments.fleet_settings import DatabaseSettings
from engines.scripted.script import Hang
from tests.deployments.http.conftest import Served, Serving, until
from tests.deployments.http.realtime.talking import Talk, talking, text_of
from tests.deployments.http.realtime.test_session import USER, echo
from tests.deployments.tenants.key_files import key_file


@pytest.fixture
def database(tmp_path: Path) -> DatabaseSettings:
    return DatabaseSettings(file=str(tmp_path / "penstock.sqlite"))


def session_of(talk: Talk) -> dict[str, Any]:
    session: dict[str, Any] = talk.heard[0]["session"]
    return session


async def refusal(served: Served, session: str, **options: Any) -> tuple[int, str]:
    """The status and the code with which it is not taken up."""
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", **options.pop("headers", {})}
    answer = await served.get(f"/v1/realtime?model=demo&session_id={session}", headers=headers, **options)
    return answer.status, answer.json["error"]["code"]


async def test_its_items_and_its_settings_go_on(serving: Serving, database: DatabaseSettings) -> None:
    async with serving(echo, database=database) as ours, serving(echo, database=database) as theirs:
        async with talking(ours) as talk:
            await talk.send("session.update", session={"type": "realtime", "instructions": "Be brief."})
            answer = await talk.says("hi")
            id = session_of(talk)["id"]
            stopping = asyncio.create_task(ours.ingress.stop(10))
            assert await talk.closed() == aiohttp.WSCloseCode.SERVICE_RESTART
        async with talking(theirs, query=f"&session_id={id}") as talk:
            session = session_of(talk)
            assert (session["id"], session["instructions"]) == (id, "Be brief.")
            assert session["last_item_id"] == answer["output"][-1]["id"]
            # Its instructions, two items, and what is said now.
            assert text_of(await talk.says("more")) == "more (4)"
        await stopping


async def test_the_close_says_which(serving: Serving, database: DatabaseSettings) -> None:
    async with serving(echo, database=database) as ours, talking(ours) as talk:
        ours.ingress.drain()
        async with asyncio.timeout(60):
            message = await talk.socket.receive()
        assert (message.data, message.extra) == (1012, f"the server restarts; session_id={session_of(talk)['id']}")


async def test_an_answer_that_does_not_end_in_time_is_kept_as_far_as_it_came(
    serving: Serving, database: DatabaseSettings
) -> None:
    async with serving(["one ", "two ", Hang()], database=database) as ours:
        async with talking(ours) as talk:
            await talk.send("conversation.item.create", item=USER)
            await talk.send("response.create")
            await talk.until("response.output_text.delta")
            id = session_of(talk)["id"]
            stopping = asyncio.create_task(ours.ingress.stop(0.2))
            done = await talk.done()
            assert (done["status"], done["output"][0]["status"]) == ("cancelled", "incomplete")
            assert await talk.closed() == aiohttp.WSCloseCode.SERVICE_RESTART
        await stopping
    async with serving(echo, database=database) as theirs, talking(theirs, query=f"&session_id={id}") as talk:
        await talk.send("conversation.item.retrieve", item_id=session_of(talk)["last_item_id"])
        assert (await talk.until("conversation.item.retrieved"))["item"]["content"][0]["text"].startswith("one ")


async def test_after_a_death_too(serving: Serving, database: DatabaseSettings) -> None:
    """Nobody has said goodbye: what the client was told is there a moment later."""
    replica = serving(echo, database=database), serving(echo, database=database)
    async with replica[0] as ours, replica[1] as theirs, talking(ours) as talk:
        await talk.says("hi")
        id = session_of(talk)["id"]
        await until(lambda: items_of(id, database) == 2)
        # The socket of the first is still open, as when its machine was cut off.
        async with talking(theirs, query=f"&session_id={id}") as again:
            await again.says("more")
            await talk.send("conversation.item.create", item=USER)
            assert await talk.closed() == aiohttp.WSCloseCode.POLICY_VIOLATION
            assert text_of(await again.says("still mine")) == "still mine (5)"


def items_of(session: str, database: DatabaseSettings) -> int:
    """How many items of a session are kept."""
    with closing(sqlite3.connect(str(database.file))) as connection:
        found = connection.execute("SELECT count(*) FROM realtime_items WHERE session = ?", (session,))
        return int(found.fetchone()[0])


async def test_nobody_elses(serving: Serving, database: DatabaseSettings, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(key_file(ours={}, theirs={}))
    async with serving(echo, database=database, keys={"file": str(path)}) as served:
        ours, theirs = ({"Authorization": f"Bearer {name}-key"} for name in ("ours", "theirs"))
        async with talking(served, headers=ours) as talk:
            await talk.says("hi")
            id = session_of(talk)["id"]
        assert await refusal(served, id, headers=theirs) == (404, "session_not_found")
        async with talking(served, headers=ours, query=f"&session_id={id}") as talk:
            assert session_of(talk)["id"] == id


async def test_without_a_database_it_ends_with_its_router(serving: Serving) -> None:
    async with serving(echo) as served:
        async with talking(served) as talk:
            id = session_of(talk)["id"]
        assert await refusal(served, id) == (400, "unsupported")


async def test_a_database_that_is_away_keeps_nobody_from_talking(serving: Serving) -> None:
    away = DatabaseSettings(file="/proc/no/such/folder/penstock.sqlite")
    async with serving(echo, database=away) as served, talking(served) as talk:
        assert text_of(await talk.says("hi")) == "hi (1)"
        id = session_of(talk)["id"]
        assert await refusal(served, id) == (503, "database_unavailable")
        metrics = await served.get("/metrics")
        assert b"penstock_database_unreachable 1" in metrics.body
        served.ingress.drain()
        async with asyncio.timeout(60):
            message = await talk.socket.receive()
        # It cannot be taken up, and is not said to be.
        assert (message.data, message.extra) == (1012, "the server restarts")


async def test_openais_own_client_reconnects_to_it(serving: Serving, database: DatabaseSettings) -> None:
    async with serving(echo, database=database) as ours, serving(echo, database=database) as theirs:
        client = AsyncOpenAI(base_url=f"{ours.url}/v1", api_key="any", max_retries=0)
        sessions: list[str] = []

        def reconnecting(event: ReconnectingEvent) -> ReconnectingOverrides:
            # In a cluster both are behind one address.
            client.base_url = f"{theirs.url}/v1"
            return {"extra_query": {**event.extra_query, "session_id": sessions[-1]}}

        connecting = client.realtime.connect(model="demo", on_reconnecting=reconnecting)
        async with connecting as connection:
            said = []
            await connection.conversation.item.create(item=USER)  # type: ignore[arg-type]
            await connection.response.create()
            async for event in connection:
                if event.type == "session.created":
                    sessions.append(str(event.session.id))
                    if len(sessions) == 2:
                        await connection.conversation.item.create(item=USER)  # type: ignore[arg-type]
                        await connection.response.create()
                elif event.type == "response.output_text.done":
                    said.append(event.text)
                elif event.type == "response.done":
                    if len(said) == 2:
                        break
                    ours.ingress.drain()
            assert said == ["hi (1)", "hi (3)"]
            assert sessions[0] == sessions[1]
        await client.close()
        await until(lambda: not theirs.metrics.in_flight)
