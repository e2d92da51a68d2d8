"""Responses in the background in the database: one replica at a time writes, and who was late writes nothing."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database import background_lease, group_commit
from deployments.database.background_lease import LeaseLost
from deployments.database.background_responses import BackgroundResponses, NewResponse, TooManyInBackground
from deployments.database.database import DatabaseUnavailable
from deployments.database.kept_responses import KeptResponse, Size
from deployments.database.storage import Storage
from deployments.fleet_settings import DatabaseSettings, HttpSettings

FAR = 10**9


def a_response() -> NewResponse:
    return NewResponse(f"resp_{uuid.uuid4().hex}", "[]", "[]", "{}")


def ended(new: NewResponse) -> KeptResponse:
    return KeptResponse(new.id, "{}", "[]", "[]", "", None, Size(1, 4))


class Replica:
    """One of several over a database, with a clock that all of them have."""

    def __init__(self, storage: Storage, name: str, *, most: int = 100, size: int = FAR) -> None:
        self.storage = storage
        self.now_s = 1000.0
        self.store = BackgroundResponses(storage.database, name, most, size, lambda: self.now_s)


@pytest.fixture
async def replicas(settings: DatabaseSettings) -> AsyncIterator[list[Replica]]:
    made = [Replica(Storage(settings, HttpSettings()), name) for name in ("one", "other")]
    for replica in made:
        await replica.storage.database.start()
        replica.store.start()
    yield made
    for replica in made:
        await replica.store.stop()
        await replica.storage.database.stop()


async def test_who_has_lost_its_lease_writes_nothing(replicas: list[Replica]) -> None:
    one, other = replicas
    new = a_response()
    lease = await one.store.create(new, "team", is_held=True)
    await one.store.write(lease, "first")
    await one.store.write(lease, None)
    assert await other.store.take() is None
    other.now_s += background_lease.LEASE_S + 1
    taken = await other.store.take()
    assert taken is not None
    assert (taken.id, taken.epoch, taken.batches, taken.losses) == (new.id, 2, 1, 1)
    assert taken.started_s == one.now_s
    assert await other.store.load(taken) == (new, ["first"])
    # It does not know that yet.
    with pytest.raises(LeaseLost):
        await one.store.write(lease, "second")
    with pytest.raises(LeaseLost):
        await one.store.load(lease)
    await other.store.write(taken, "other second")
    assert await one.store.batches(new.id, 0) == ["first", "other second"]
    assert await one.store.progress([new.id, "resp_" + "0" * 32]) == {new.id: 2}
    # Nor does it end it, or give it back.
    kept = one.storage.responses
    lease.is_over = False
    with pytest.raises(LeaseLost):
        await kept.keep(ended(new), "team", (), one.store.removing(lease))
    assert await kept.find([new.id], "team") == {}
    await one.store.release(lease, 0.0, had_no_room=True)
    assert await one.store.take() is None
    await kept.keep(ended(new), "team", (), other.store.removing(taken))
    assert await one.store.find(new.id, "team") is None
    assert await one.store.batches(new.id, 0) == []
    assert list(await kept.find([new.id], "team")) == [new.id]
    # By now there is nothing to end twice.
    with pytest.raises(LeaseLost):
        await kept.keep(ended(new), "team", (), other.store.removing(taken))


async def test_each_is_taken_by_one(replicas: list[Replica]) -> None:
    made = [a_response() for _ in range(40)]
    for new in made:
        await replicas[0].store.create(new, "team", is_held=False)
    taken = await asyncio.gather(*(replica.store.take() for replica in replicas * 10))
    ids = [lease.id for lease in taken if lease is not None]
    assert len(ids) == len(set(ids))
    assert await replicas[0].store.take(["team"]) is None
    while (more := await replicas[1].store.take(["others"])) is not None:
        ids.append(more.id)
    assert sorted(ids) == sorted(new.id for new in made)
    assert not any(replica.storage.database.problem for replica in replicas)


async def test_one_that_is_given_back_waits_as_long_as_it_is_to(replicas: list[Replica]) -> None:
    one, other = replicas
    lease = await one.store.create(a_response(), "team", is_held=True)
    await one.store.release(lease, 30.0, had_no_room=True)
    assert await other.store.take() is None
    other.now_s += 30
    taken = await other.store.take()
    assert taken is not None
    # Nobody was lost, and there was no room once.
    assert (taken.losses, taken.tries, taken.started_s) == (0, 1, None)
    await other.store.write(taken, "said")
    assert taken.tries == 0


async def test_one_cancels_it_at_a_time(replicas: list[Replica]) -> None:
    one, other = replicas
    new = a_response()
    lease = await one.store.create(new, "team", is_held=True)
    assert await other.store.take_to_cancel(new.id, "others") is None
    assert await other.store.take_to_cancel("\0", "team") is None
    taken = await other.store.take_to_cancel(new.id, "team")
    assert taken is not None and taken.is_cancelled
    with pytest.raises(LeaseLost):
        await one.store.write(lease, "late")
    assert await one.store.take_to_cancel(new.id, "team") is None
    # It died: that it is to be cancelled is known to whoever takes it next.
    one.now_s += background_lease.LEASE_S + 1
    again = await one.store.take()
    assert again is not None and again.is_cancelled


async def test_nobody_elses(replicas: list[Replica]) -> None:
    store, new = replicas[0].store, a_response()
    await store.create(new, "team", is_held=False)
    assert await store.find(new.id, "others") is None
    assert await store.input(new.id, "others") is None
    assert await store.delete(new.id, "others") is False
    found = await store.find(new.id, "team")
    assert found is not None and not found.is_started
    assert await store.input(new.id, "team") == "[]"
    assert await store.delete(new.id, "team") is True
    assert await store.delete(new.id, "team") is False


async def test_a_share_holds_whoever_asks_at_the_same_time(settings: DatabaseSettings) -> None:
    made = [Replica(Storage(settings, HttpSettings()), str(index), most=5) for index in range(3)]
    for replica in made:
        await replica.storage.database.start()
    results = await asyncio.gather(
        *(replica.store.create(a_response(), "team", is_held=False) for replica in made * 4), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, TooManyInBackground)]
    assert len(refused) == 7 and refused[0].param == "background"
    # A neighbour has its own.
    await made[0].store.create(a_response(), "others", is_held=False)
    small = Replica(made[0].storage, "small", size=a_response().bytes)
    await small.store.create(a_response(), "small", is_held=False)
    with pytest.raises(TooManyInBackground, match="bytes"):
        await small.store.create(a_response(), "small", is_held=False)
    for replica in made:
        await replica.storage.database.stop()


async def test_what_was_written_without_saying_so_is_not_written_twice(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "RETRY_S", 0.01)
    database, store = replicas[0].storage.database, replicas[0].store
    new = a_response()
    lease = await store.create(new, "team", is_held=True)
    run, left = database.run, [1]

    async def runs_and_says_it_failed(work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
        result = await run(work)
        if left:
            left.pop()
            raise DatabaseUnavailable("It did not say.")
        return result

    monkeypatch.setattr(database, "run", runs_and_says_it_failed)
    await store.write(lease, "once")
    await store.write(lease, "twice")
    assert await store.batches(new.id, 0) == ["once", "twice"]
    assert lease.batches == 2


async def test_a_lease_ends_where_the_database_does_not_answer(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_lease, "LEASE_S", 0.5)
    monkeypatch.setattr(group_commit, "RETRY_S", 0.01)
    one, other = replicas
    new = a_response()
    lease = await one.store.create(new, "team", is_held=True)

    async def away(_: Any) -> Any:
        raise DatabaseUnavailable("It is away.")

    with monkeypatch.context() as patched:
        patched.setattr(one.storage.database, "run", away)
        with pytest.raises(LeaseLost):
            await one.store.write(lease, "late")
    assert time.monotonic() >= lease.until_s and lease.is_over
    # What is marked to be written is not, now that the database is back.
    await one.store.stop()
    assert await other.store.batches(new.id, 0) == []
