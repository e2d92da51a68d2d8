"""Responses that are made in the background: who makes each, what it takes, and the events that it has said by now.

One router replica at a time makes one, under a lease that it renews as it writes. What is written carries the lease's
epoch, and changes nothing once another replica has taken the response: then its epoch is higher. The batches of its
events are there before anybody reads an event of them, so that whoever takes it goes on from what was read.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Update, case, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database import background_lease
from deployments.database.background_lease import Lease, LeaseLost
from deployments.database.database import Database, DatabaseUnavailable
from deployments.database.group_commit import GroupCommit
from deployments.database.tables import BACKGROUND_BATCHES as BATCHES
from deployments.database.tables import BACKGROUND_RESPONSES as RESPONSES
from engines.errors import RateLimited

_GROUP = 256
"""Responses that one transaction writes, at most."""
_AGAIN_S = 0.1
_RETRY_AFTER_S = 10.0
_ROW_BYTES = 1024
"""What a response costs besides what is said of it: many small ones are not to cost nothing."""
_ID = re.compile(r"resp_[0-9a-f]{32}")
_LOCK = 7365637
"""With a tenant's hash, PostgreSQL's advisory lock under which its responses are counted; any number of ours."""
_OF_LEASE = (
    RESPONSES.c.id,
    RESPONSES.c.tenant,
    RESPONSES.c.epoch,
    RESPONSES.c.is_cancelled,
    RESPONSES.c.tries,
    RESPONSES.c.losses,
    RESPONSES.c.batches,
    RESPONSES.c.bytes,
    RESPONSES.c.created_at,
    RESPONSES.c.started_at,
)


class TooManyInBackground(RateLimited):
    """The tenant has as much in the background as it may."""

    code = "too_many_background_responses"


@dataclass(frozen=True, slots=True)
class NewResponse:
    """A response that is to be made.

    Attributes:
        id: Its id.
        head: How it is told, as JSON text.
        input: The items of its input, as clients read them, likewise.
        request: What takes it to make it, likewise.
    """

    id: str
    head: str
    input: str
    request: str

    @property
    def bytes(self) -> int:
        """What it has in the database."""
        return _ROW_BYTES + len(self.head) + len(self.input) + len(self.request)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A response that has not ended.

    Attributes:
        id: Its id.
        is_started: Whether it has said anything.
        bytes: Of how it is told, and of its input.
    """

    id: str
    is_started: bool
    bytes: int


class BackgroundResponses:
    """The responses of a database that have not ended.

    Args:
        database: Where they are.
        holder: What this replica is called in it.
        tenant_responses: Most of one tenant's.
        tenant_bytes: What those may have.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        database: Database,
        holder: str,
        tenant_responses: int,
        tenant_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._holder = holder
        self._tenant_responses = tenant_responses
        self._tenant_bytes = tenant_bytes
        self._clock = clock
        self._commits = GroupCommit[Lease](self._write, _GROUP)

    def start(self) -> None:
        """Begins to write."""
        self._commits.start()

    async def stop(self) -> None:
        """Writes no more."""
        await self._commits.stop()

    async def create(self, new: NewResponse, tenant: str, *, is_held: bool) -> Lease:
        """Stores a response that is to be made.

        Args:
            new: The response.
            tenant: Whose it is.
            is_held: Whether this replica makes it; else whichever takes it first.

        Raises:
            TooManyInBackground: The tenant has as much as it may.
            DatabaseUnavailable: The database does not answer.
        """
        now_s = self._clock()
        lease = Lease(new.id, tenant, 1, False, 0, 0, 0, new.bytes, now_s, None)
        row = {
            "id": new.id,
            "tenant": tenant,
            "head": new.head,
            "input": new.input,
            "request": new.request,
            "bytes": new.bytes,
            "is_cancelled": False,
            "epoch": lease.epoch,
            "holder": self._holder if is_held else None,
            "lease_until": now_s + background_lease.LEASE_S if is_held else now_s,
            "tries": 0,
            "losses": 0,
            "batches": 0,
            "created_at": now_s,
        }

        async def work(connection: AsyncConnection) -> None:
            if connection.dialect.name != "sqlite":
                # Others of the tenant's are counted after this one.
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(:lock, hashtext(:tenant))"), {"lock": _LOCK, "tenant": tenant}
                )
            query = select(func.count(), func.coalesce(func.sum(RESPONSES.c.bytes), 0))
            count, size = (await connection.execute(query.where(RESPONSES.c.tenant == tenant))).one()
            self._check(int(count), int(size), new.bytes)
            await connection.execute(insert(RESPONSES), [row])

        await self._database.run(work)
        return lease

    async def find(self, id: str, tenant: str) -> Unfinished | None:
        """A response that has not ended; None: there is none, or it has.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        size = func.length(RESPONSES.c.head) + func.length(RESPONSES.c.input)
        row = await self._one(id, tenant, RESPONSES.c.started_at, size.label("size"))
        return None if row is None else Unfinished(id, row.started_at is not None, int(row.size))

    async def head(self, id: str, tenant: str) -> str | None:
        """How it is told, as JSON text; None: there is none, or it has ended.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        row = await self._one(id, tenant, RESPONSES.c.head)
        return None if row is None else str(row.head)

    async def input(self, id: str, tenant: str) -> str | None:
        """The items of its input, as JSON text; None: there is none, or it has ended.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        row = await self._one(id, tenant, RESPONSES.c.input)
        return None if row is None else str(row.input)

    async def load(self, lease: Lease) -> tuple[NewResponse, Sequence[str]]:
        """A response that this replica makes, and the batches of its events.

        Raises:
            LeaseLost: It is not this replica's any more.
            DatabaseUnavailable: The database does not answer.
        """

        async def work(connection: AsyncConnection) -> tuple[NewResponse, Sequence[str]]:
            columns = (RESPONSES.c.head, RESPONSES.c.input, RESPONSES.c.request)
            row = (await connection.execute(select(*columns).where(_is_held(lease)))).one_or_none()
            if row is None:
                raise LeaseLost
            return NewResponse(lease.id, row.head, row.input, row.request), await _batches(connection, lease.id, 0)

        return await self._database.run(work)

    async def batches(self, id: str, first: int) -> Sequence[str]:
        """The batches of its events from a number on.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        return await self._database.run(lambda connection: _batches(connection, id, first))

    async def progress(self, ids: Collection[str]) -> Mapping[str, int]:
        """How many batches there are of each of some that have not ended, by id.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        query = select(RESPONSES.c.id, RESPONSES.c.batches).where(RESPONSES.c.id.in_(ids))

        async def work(connection: AsyncConnection) -> Mapping[str, int]:
            return {row.id: row.batches for row in (await connection.execute(query)).all()}

        return await self._database.run(work)

    async def take(self, without: Collection[str] = ()) -> Lease | None:
        """Takes one that nobody makes: its turn has come, or who made it is gone.

        Args:
            without: Tenants whose responses are left alone.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        free = select(RESPONSES.c.id).where(RESPONSES.c.lease_until <= self._clock())
        free = free.where(RESPONSES.c.tenant.not_in(without))
        # What another replica is taking is left to it.
        free = free.order_by(RESPONSES.c.lease_until).limit(1).with_for_update(skip_locked=True)
        return await self._take(update(RESPONSES).where(RESPONSES.c.id.in_(free)))

    async def take_to_cancel(self, id: str, tenant: str) -> Lease | None:
        """Takes one, to end it; None: there is none, or another replica is ending it.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        query = update(RESPONSES).where(_is(id, tenant))
        query = query.where(~RESPONSES.c.is_cancelled | (RESPONSES.c.lease_until <= self._clock()))
        return await self._take(query.values(is_cancelled=True))

    async def write(self, lease: Lease, batch: str | None) -> None:
        """Stores a batch of events, and renews the lease; returns when both is done.

        While the database does not answer it tries again, until the lease has ended.

        Args:
            lease: Whose.
            batch: The events, as JSON text; None: the lease alone.

        Raises:
            LeaseLost: The response is not this replica's any more.
        """
        if batch is not None:
            lease.pending = batch
        try:
            async with asyncio.timeout(max(0.0, lease.until_s - time.monotonic())):
                while not lease.is_over:
                    try:
                        await self._commits.committed(lease)
                    except DatabaseUnavailable:
                        await asyncio.sleep(_AGAIN_S)
                    else:
                        break
        except TimeoutError:
            lease.is_over = True
        if lease.is_over:
            raise LeaseLost

    async def release(self, lease: Lease, after_s: float, *, had_no_room: bool) -> None:
        """Gives one back, to be taken by whoever comes first.

        Args:
            lease: The lease, which is over then.
            after_s: Not within so many seconds.
            had_no_room: Whether that is why.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        lease.is_over = True
        query = update(RESPONSES).where(_is_held(lease))
        tries = lease.tries + 1 if had_no_room else lease.tries
        # What is still on its way into the database comes too late.
        values = {"epoch": RESPONSES.c.epoch + 1, "holder": None, "tries": tries}
        query = query.values(lease_until=self._clock() + after_s, **values)
        await self._database.run(lambda connection: connection.execute(query))

    def removing(self, lease: Lease) -> Callable[[AsyncConnection], Awaitable[None]]:
        """Removes a response that ends, as a part of the transaction that stores what has become of it.

        What it returns raises LeaseLost where the response is not this replica's any more.
        """

        async def work(connection: AsyncConnection) -> None:
            gone = await connection.execute(delete(RESPONSES).where(_is_held(lease)))
            if not gone.rowcount:
                raise LeaseLost

        return work

    async def delete(self, id: str, tenant: str) -> bool:
        """Removes one, whoever makes it; whether it was there.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """

        async def work(connection: AsyncConnection) -> bool:
            return bool((await connection.execute(delete(RESPONSES).where(_is(id, tenant)))).rowcount)

        return await self._database.run(work)

    def _check(self, count: int, size: int, more: int) -> None:
        if count >= self._tenant_responses:
            message = f"The API key may have {self._tenant_responses} responses in the background at a time."
            raise TooManyInBackground(message, param="background", retry_after_s=_RETRY_AFTER_S)
        if size + more > self._tenant_bytes:
            raise TooManyInBackground(
                f"The API key's responses in the background have {size} bytes, this one has {more}, and all may have "
                f"{self._tenant_bytes}.",
                param="background",
                retry_after_s=_RETRY_AFTER_S,
            )

    async def _take(self, query: Update) -> Lease | None:
        """Takes the one that a query updates."""
        began_s = time.monotonic()
        lost = case((RESPONSES.c.holder.is_not(None), RESPONSES.c.losses + 1), else_=RESPONSES.c.losses)
        taken = query.values(
            epoch=RESPONSES.c.epoch + 1,
            holder=self._holder,
            losses=lost,
            lease_until=self._clock() + background_lease.LEASE_S,
        ).returning(*_OF_LEASE)

        async def work(connection: AsyncConnection) -> Lease | None:
            row = (await connection.execute(taken)).one_or_none()
            return None if row is None else _lease(row, began_s)

        return await self._database.run(work)

    async def _one(self, id: str, tenant: str, *columns: ColumnElement[Any]) -> Row[Any] | None:
        if not _ID.fullmatch(id):
            return None

        async def work(connection: AsyncConnection) -> Row[Any] | None:
            return (await connection.execute(select(*columns).where(_is(id, tenant)))).one_or_none()

        return await self._database.run(work)

    async def _write(self, leases: Sequence[Lease]) -> None:
        """Writes what is pending of some, and notes those that were lost."""
        began_s = time.monotonic()
        # In one order everywhere: two transactions that wait for each other's would both be given up.
        written = {lease: lease.pending for lease in sorted(leases, key=lambda one: one.id) if not lease.is_over}

        async def work(connection: AsyncConnection) -> set[Lease]:
            return {lease for lease, batch in written.items() if not await self._write_one(connection, lease, batch)}

        lost = await self._database.run(work)
        for lease, batch in written.items():
            if lease in lost:
                lease.is_over = True
                continue
            lease.until_s = began_s + background_lease.LEASE_S
            if batch is not None:
                lease.batches += 1
                lease.tries = lease.losses = 0
                lease.pending = None

    async def _write_one(self, connection: AsyncConnection, lease: Lease, batch: str | None) -> bool:
        """Whether it was written: this replica still makes the response."""
        now_s = self._clock()
        renewed = update(RESPONSES).where(_is_held(lease)).values(lease_until=now_s + background_lease.LEASE_S)
        if batch is None:
            return bool((await connection.execute(renewed)).rowcount)
        query = renewed.where(RESPONSES.c.batches == lease.batches).values(
            batches=lease.batches + 1,
            bytes=RESPONSES.c.bytes + len(batch),
            tries=0,
            losses=0,
            started_at=func.coalesce(RESPONSES.c.started_at, now_s),
        )
        if (await connection.execute(query)).rowcount:
            row = {"response": lease.id, "number": lease.batches, "batch": batch}
            await connection.execute(insert(BATCHES), [row])
            return True
        # Where it was held, the batch is there: it was written by a transaction that has ended without saying so.
        return bool((await connection.execute(renewed)).rowcount)


def _is(id: str, tenant: str) -> ColumnElement[bool]:
    # What a client sends need not even be a text to a database.
    return (RESPONSES.c.id == (id if _ID.fullmatch(id) else "")) & (RESPONSES.c.tenant == tenant)


def _is_held(lease: Lease) -> ColumnElement[bool]:
    return (RESPONSES.c.id == lease.id) & (RESPONSES.c.epoch == lease.epoch)


def _lease(row: Row[Any], began_s: float) -> Lease:
    """The lease that was taken in a transaction which began then."""
    return Lease(
        row.id,
        row.tenant,
        row.epoch,
        row.is_cancelled,
        row.tries,
        row.losses,
        row.batches,
        row.bytes,
        row.created_at,
        row.started_at,
        began_s + background_lease.LEASE_S,
    )


async def _batches(connection: AsyncConnection, id: str, first: int) -> Sequence[str]:
    query = select(BATCHES.c.batch).where(BATCHES.c.response == id, BATCHES.c.number >= first)
    return [row.batch for row in (await connection.execute(query.order_by(BATCHES.c.number))).all()]
