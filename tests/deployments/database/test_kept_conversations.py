"""Conversations in the database: up to each tenant's share, until they expire."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncConnection

import deployments.database.database as database_module
from deployments.database import tenant_rows
from deployments.database.kept_conversations import ConversationNotFound, KeptConversations
from deployments.database.storage import Storage
from deployments.database.tables import CONVERSATION_TENANTS, CONVERSATIONS
from deployments.fleet_settings import DatabaseSettings, HttpSettings

FAR = 2**40


async def counted(storage: Storage) -> tuple[int, int]:
    """What tenants are said to have, and what they have."""

    async def work(connection: AsyncConnection) -> tuple[int, int]:
        said = select(func.coalesce(func.sum(CONVERSATION_TENANTS.c.bytes), 0))
        had = select(func.coalesce(func.sum(CONVERSATIONS.c.bytes), 0))
        return int((await connection.execute(said)).scalar_one()), int((await connection.execute(had)).scalar_one())

    return await storage.database.run(work)


async def test_a_tenant_fills_its_own_share_alone(settings: DatabaseSettings) -> None:
    storage = Storage(settings, HttpSettings())
    await storage.database.start()
    kept = KeptConversations(storage.database, FAR, 20_000, FAR)
    other = await kept.create("other", {}, [])
    first = await kept.create("ours", {}, [])
    second = await kept.create("ours", {}, [("msg_1", "x" * 8_000)])
    await kept.add(first.id, "ours", [("msg_2", "x" * 8_000)])
    # The one that was changed last is the last to go.
    third = await kept.create("ours", {}, [("msg_3", "x" * 8_000)])
    with pytest.raises(ConversationNotFound):
        await kept.find(second.id, "ours")
    assert [(await kept.find(one.id, "ours")).items for one in (first, third)] == [1, 1]
    assert (await kept.find(other.id, "other")).items == 0
    # Who has just said something, however much, can go on.
    large = await kept.create("ours", {}, [("msg_4", "x" * 30_000)])
    await kept.add(large.id, "ours", [("msg_5", "x" * 30_000)])
    await kept.update(large.id, "ours", {"a": "b"})
    assert (await kept.find(large.id, "ours")).items == 2
    with pytest.raises(ConversationNotFound):
        await kept.find(third.id, "ours")
    said, had = await counted(storage)
    assert said == had
    await storage.database.stop()


async def test_it_expires_after_its_last_change(settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_rows, "SWEEP_S", 0.05)
    storage = Storage(settings, HttpSettings())
    await storage.database.start()
    now = [1000.0]
    kept = KeptConversations(storage.database, 100, FAR, FAR, lambda: now[0])
    one, two = [await kept.create("ours", {}, [("msg_1", "{}")]) for _ in range(2)]
    now[0] += 60
    await kept.update(two.id, "ours", {"a": "b"})
    now[0] += 60
    with pytest.raises(ConversationNotFound):
        await kept.find(one.id, "ours")
    assert (await kept.find(two.id, "ours")).metadata == {"a": "b"}
    kept.start()
    async with asyncio.timeout(60):
        while (await counted(storage))[1] != (await kept.find(two.id, "ours")).bytes:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.01)
    await kept.stop()
    said, had = await counted(storage)
    assert said == had
    await storage.database.stop()


async def test_items_that_are_added_at_once_are_all_there(settings: DatabaseSettings) -> None:
    storage = Storage(settings, HttpSettings())
    await storage.database.start()
    kept = storage.conversations
    one = await kept.create("ours", {}, [])
    await asyncio.gather(*(kept.add(one.id, "ours", [(f"msg_{number}", f'"{number}"')]) for number in range(20)))
    items = await kept.items(one.id, "ours", after=None, limit=100, order="asc")
    assert sorted(text for _, text in items) == sorted(f'"{number}"' for number in range(20))
    await kept.remove(one.id, "ours", "msg_7")
    assert (await kept.find(one.id, "ours")).items == 19
    said, had = await counted(storage)
    assert said == had
    await kept.delete(one.id, "ours")
    assert await counted(storage) == (0, 0)
    await storage.database.stop()


async def test_its_tables_can_be_taken_back(settings: DatabaseSettings) -> None:
    def there(connection: Connection) -> set[str]:
        return set(inspect(connection).get_table_names())

    def down_and_up(connection: Connection) -> tuple[set[str], set[str]]:
        config: Any = Config()
        folder = Path(database_module.__file__).parent / "migrations"
        config.set_main_option("script_location", str(folder))
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        before = there(connection)
        command.upgrade(config, "0004")
        return before, there(connection)

    storage = Storage(settings, HttpSettings())
    await storage.database.start()
    before, after = await storage.database.run(lambda connection: connection.run_sync(down_and_up))
    assert after - before == {"conversations", "conversation_items", "conversation_tenants"}
    await storage.database.stop()
