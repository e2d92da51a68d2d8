"""Responses in the database: each tenant's own, up to its share, until they expire."""

import asyncio
import uuid
from contextlib import suppress

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database import kept_responses
from deployments.database.kept_responses import (
    KeptResponse,
    KeptResponses,
    PreviousResponseNotFound,
    ResponseNotFound,
    Size,
)
from deployments.database.storage import Storage
from deployments.database.tables import RESPONSE_TENANTS, RESPONSES
from deployments.fleet_settings import DatabaseSettings, HttpSettings
from engines.errors import ConversationFull

FAR = 10**9


def a_response(previous: KeptResponse | None = None, text: str = "{}") -> KeptResponse:
    history = Size(1, 4) if previous is None else Size(previous.history.links + 1, previous.history.bytes + 4)
    id = f"resp_{uuid.uuid4().hex}"
    return KeptResponse(id, "", "[]", text, "", None if previous is None else previous.id, history)


class Kept:
    """A store over a real database, with a clock."""

    def __init__(self, storage: Storage, keep_s: float = 100.0, tenant_bytes: int = FAR) -> None:
        self.storage = storage
        self.now_s = 1000.0
        self.store = KeptResponses(storage.database, keep_s, tenant_bytes, lambda: self.now_s)

    async def keep(self, *responses: KeptResponse, tenant: str = "team") -> None:
        for response in responses:
            await self.store.keep(response, tenant)

    async def are_there(self, *responses: KeptResponse, tenant: str = "team") -> list[bool]:
        found = await self.store.find([response.id for response in responses], tenant)
        return [response.id in found for response in responses]

    async def counted(self) -> dict[str, int]:
        """What is counted of each tenant, which is what there is."""

        async def work(connection: AsyncConnection) -> dict[str, int]:
            sums = select(RESPONSES.c.tenant, func.sum(RESPONSES.c.bytes)).group_by(RESPONSES.c.tenant)
            real = {tenant: int(size) for tenant, size in (await connection.execute(sums)).all()}
            counted = {row.tenant: row.bytes for row in (await connection.execute(select(RESPONSE_TENANTS))).all()}
            assert {tenant: size for tenant, size in counted.items() if size} == real
            return real

        return await self.storage.database.run(work)


@pytest.fixture
async def storage(settings: DatabaseSettings) -> Storage:
    return Storage(settings, HttpSettings())


async def opened(storage: Storage) -> Storage:
    await storage.database.start()
    return storage


async def test_what_was_kept_is_found(storage: Storage) -> None:
    kept = Kept(await opened(storage))
    response = a_response(text='{"a": "\\u0000 \\ud83d\\ude00"}')
    await kept.keep(response)
    assert await kept.store.find([response.id, "resp_" + "0" * 32, "\0"], "team") == {response.id: response}
    assert await kept.store.bytes([response.id], "team") == len(response.output) + 2
    assert await kept.store.bytes([], "team") == 0
    await kept.store.delete(response.id, "team")
    with pytest.raises(ResponseNotFound):
        await kept.store.delete(response.id, "team")
    assert await kept.counted() == {}
    await storage.database.stop()


async def test_nobody_elses(storage: Storage) -> None:
    kept = Kept(await opened(storage))
    response = a_response()
    await kept.keep(response)
    assert await kept.are_there(response, tenant="other") == [False]
    assert await kept.store.bytes([response.id], "other") == 0
    with pytest.raises(ResponseNotFound):
        await kept.store.delete(response.id, "other")
    with pytest.raises(PreviousResponseNotFound):
        await kept.store.size(response.id, "other", FAR)
    with pytest.raises(PreviousResponseNotFound):
        await kept.store.history(response.id, "other")
    assert await kept.are_there(response) == [True]
    await storage.database.stop()


async def test_a_conversation_is_read_in_its_order_up_to_its_last_response(storage: Storage) -> None:
    kept = Kept(await opened(storage))
    first = a_response(text='"1"')
    second, other = a_response(first, text='"2"'), a_response(first, text='"x"')
    third = a_response(second, text='"3"')
    await kept.keep(first, second, other, third)
    assert await kept.store.history(third.id, "team") == [("[]", '"1"'), ("[]", '"2"'), ("[]", '"3"')]
    assert await kept.store.history(other.id, "team") == [("[]", '"1"'), ("[]", '"x"')]
    assert await kept.store.size(third.id, "team", FAR) == Size(3, 12)
    # One that is gone is missed: an answer without it would be to something else.
    await kept.store.delete(second.id, "team")
    with pytest.raises(PreviousResponseNotFound, match="goes on from"):
        await kept.store.history(third.id, "team")
    await storage.database.stop()


async def test_a_conversation_is_bounded(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_responses, "MOST_LINKS", 2)
    kept = Kept(await opened(storage))
    first = a_response()
    second = a_response(first)
    await kept.keep(first, second)
    assert (await kept.store.size(first.id, "team", 4)).links == 1
    for id, most in ((first.id, 3), (second.id, FAR)):
        with pytest.raises(ConversationFull):
            await kept.store.size(id, "team", most)
    await storage.database.stop()


async def test_it_expires(storage: Storage) -> None:
    kept = Kept(await opened(storage))
    old, new = a_response(), a_response()
    await kept.keep(old)
    kept.now_s += 60
    await kept.keep(new)
    kept.now_s += 60
    assert await kept.are_there(old, new) == [False, True]
    assert (await kept.counted())["team"] == 8
    await kept.store._sweep()
    assert (await kept.counted())["team"] == 4
    await storage.database.stop()


async def test_a_tenant_fills_its_own_share_alone(storage: Storage) -> None:
    kept = Kept(await opened(storage), tenant_bytes=3 * 4)
    others = a_response()
    await kept.keep(others, tenant="other")
    responses = []
    for _ in range(5):
        responses.append(a_response())
        await kept.keep(responses[-1])
        kept.now_s += 1
    assert await kept.are_there(*responses) == [False, False, True, True, True]
    assert await kept.are_there(others, tenant="other") == [True]
    assert await kept.counted() == {"team": 12, "other": 4}
    large = a_response(text='"' + "x" * 100 + '"')
    await kept.keep(large)
    assert await kept.counted() == {"other": 4}
    await storage.database.stop()


async def test_replicas_keep_remove_and_expire_at_the_same_time(settings: DatabaseSettings) -> None:
    storages = [await opened(Storage(settings, HttpSettings())) for _ in range(2)]
    stores = [Kept(storage, tenant_bytes=10 * 4) for storage in storages]

    async def one(number: int) -> None:
        kept, tenant = stores[number % 2], f"team-{number % 3}"
        response = a_response()
        await kept.keep(response, tenant=tenant)
        kept.now_s += 10
        if number % 4 == 0:
            await kept.store._sweep()
        elif number % 4 == 1:
            # It may have been past the tenant's share already.
            with suppress(ResponseNotFound):
                await kept.store.delete(response.id, tenant)

    await asyncio.gather(*(one(number) for number in range(60)))
    assert not any(storage.database.problem for storage in storages)
    assert all(size <= 40 for size in (await stores[0].counted()).values())
    for storage in storages:
        await storage.database.stop()
