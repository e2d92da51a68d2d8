"""Chat completions in the database: what is counted of them, and what goes with them."""

import asyncio

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database.kept_chat_completions import (
    ChatCompletionNotFound,
    KeptChatCompletion,
    KeptChatCompletions,
    is_id,
    new_id,
)
from deployments.database.storage import Storage
from deployments.database.tables import CHAT_COMPLETION_LABELS, CHAT_COMPLETION_TENANTS, CHAT_COMPLETIONS
from deployments.fleet_settings import DatabaseSettings, HttpSettings

FAR = 10**9
ROW = len("{}" + '{"a": "b"}' + "[]")


class Kept:
    """A store over a real database, with a clock."""

    def __init__(self, storage: Storage, keep_s: float = 100.0, tenant_bytes: int = FAR) -> None:
        self.storage = storage
        self.now_s = 1000.0
        self.store = KeptChatCompletions(storage.database, keep_s, tenant_bytes, lambda: self.now_s)

    async def keep(self, tenant: str = "team") -> str:
        id = new_id()
        await self.store.keep(KeptChatCompletion(id, "{}", {"a": "b"}), "demo", ["{}"], tenant)
        return id

    async def found(self, tenant: str = "team", **metadata: str) -> set[str]:
        return {id for id, _ in await self.store.list(tenant, None, metadata, None, 100, is_descending=False)}

    async def counted(self) -> dict[str, int]:
        """What is counted of each tenant, which is what there is; with labels of what there is, and of nothing else."""

        async def work(connection: AsyncConnection) -> dict[str, int]:
            columns = CHAT_COMPLETIONS.c
            rows = (await connection.execute(select(CHAT_COMPLETIONS))).all()
            for row in rows:
                assert row.listed_bytes == len(row.completion) + len(row.metadata)
                assert row.bytes == row.listed_bytes + len(row.messages)
            sums = select(columns.tenant, func.sum(columns.bytes)).group_by(columns.tenant)
            real = {tenant: int(size) for tenant, size in (await connection.execute(sums)).all()}
            tenants = (await connection.execute(select(CHAT_COMPLETION_TENANTS))).all()
            assert {row.tenant: row.bytes for row in tenants if row.bytes} == real
            labelled = (await connection.execute(select(CHAT_COMPLETION_LABELS.c.completion))).scalars()
            assert set(labelled) == {row.id for row in rows}
            return real

        return await self.storage.database.run(work)


@pytest.fixture
async def storage(settings: DatabaseSettings) -> Storage:
    storage = Storage(settings, HttpSettings())
    await storage.database.start()
    return storage


def test_ids_are_in_the_order_in_which_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for now_ns in (1, 10**6, 10**18, 10**18 + 10**6, 4 * 10**18):
        monkeypatch.setattr("time.time_ns", lambda now_ns=now_ns: now_ns)
        ids.append(new_id())
    assert ids == sorted(ids)
    assert all(map(is_id, ids))


async def test_what_goes_is_counted_and_takes_its_labels_along(storage: Storage) -> None:
    kept = Kept(storage)
    first, second = await kept.keep(), await kept.keep()
    assert await kept.counted() == {"team": 2 * ROW}
    await kept.store.delete(first, "team")
    assert (await kept.counted(), await kept.found(a="b")) == ({"team": ROW}, {second})
    kept.now_s += 101
    for gone in (kept.store.delete(second, "team"), kept.store.note(second, {}, "team")):
        with pytest.raises(ChatCompletionNotFound):
            await gone
    assert await kept.found() == set()
    await kept.store._sweep()
    assert await kept.counted() == {}
    await storage.database.stop()


async def test_what_is_noted_counts(storage: Storage) -> None:
    kept = Kept(storage)
    id = await kept.keep()
    await kept.store.note(id, {"a": "c" * 11}, "team")
    assert await kept.counted() == {"team": ROW + 10}
    assert (await kept.found(a="b"), await kept.found(a="c" * 11)) == (set(), {id})
    await kept.store.note(id, {}, "team")
    assert await kept.counted() == {"team": ROW - 8}
    with pytest.raises(ChatCompletionNotFound):
        await kept.store.note(id, {}, "other")
    await storage.database.stop()


async def test_a_tenant_fills_its_own_share_alone(storage: Storage) -> None:
    kept = Kept(storage, tenant_bytes=3 * ROW)
    others = await kept.keep("other")
    ids = []
    for _ in range(5):
        ids.append(await kept.keep())
        kept.now_s += 1
    assert await kept.found() == set(ids[2:])
    # Notes take of it, too.
    await kept.store.note(ids[-1], {"a": "c"}, "team")
    assert await kept.found() == set(ids[2:])
    await kept.store.note(ids[-1], {"a": "cc"}, "team")
    assert await kept.found() == set(ids[3:])
    assert await kept.found("other") == {others}
    await kept.counted()
    await storage.database.stop()


async def test_replicas_keep_note_remove_and_expire_at_the_same_time(settings: DatabaseSettings) -> None:
    storages = [Storage(settings, HttpSettings()) for _ in range(2)]
    for storage in storages:
        await storage.database.start()
    stores = [Kept(storage, tenant_bytes=10 * ROW) for storage in storages]

    async def one(number: int) -> None:
        kept, tenant = stores[number % 2], f"team-{number % 3}"
        id = await kept.keep(tenant)
        kept.now_s += 10
        work = (
            kept.store._sweep,
            lambda: kept.store.delete(id, tenant),
            lambda: kept.store.note(id, {"a": "c" * number}, tenant),
        )[number % 3 - number // 30]
        try:
            await work()
        except ChatCompletionNotFound:
            # It may have been past the tenant's share already.
            return

    await asyncio.gather(*(one(number) for number in range(60)))
    assert not any(storage.database.problem for storage in storages)
    assert all(size <= 10 * ROW for size in (await stores[0].counted()).values())
    for storage in storages:
        await storage.database.stop()
