"""What tenants have in a table: each its own, up to a share, until it expires.

What a tenant has is counted as it is written, so that its share holds at every moment.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Table, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database.database import Database, DatabaseUnavailable
from deployments.followed_file import Follower

SWEEP_S = 10.0
"""How often what is past its end is removed."""
_BATCH = 256
"""Rows that one transaction removes, at most, for each that it writes."""


class TenantRows:
    """The rows of a table with the columns `id`, `tenant`, `bytes` and `expires_at`.

    Args:
        database: Where they are.
        table: The table.
        tenants: The table of what each tenant has in it, with the columns `tenant` and `bytes`.
        is_id: Whether a text is an id at all: what a client sends need not even be a text to a database.
        keep_s: How long each is kept.
        tenant_bytes: What of one tenant is kept; past it, those are removed that would expire first.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        database: Database,
        table: Table,
        tenants: Table,
        is_id: Callable[[str], object],
        keep_s: float,
        tenant_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._table = table
        self._tenants = tenants
        self._is_id = is_id
        self._keep_s = keep_s
        self._tenant_bytes = tenant_bytes
        self._clock = clock
        self._sweeper: Follower | None = None

    def start(self) -> None:
        """Begins to remove what has expired."""
        self._sweeper = Follower(self._sweep, SWEEP_S)

    async def stop(self) -> None:
        """Removes nothing more."""
        if self._sweeper is not None:
            await self._sweeper.stop()

    async def bytes(self, ids: Collection[str], tenant: str) -> int:
        """How large some of them are together; what is not stored counts nothing.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        query = select(func.sum(self._table.c.bytes)).where(self._are(ids, tenant))
        ((found,),) = await self._all(query)
        return int(found or 0)

    async def _insert(
        self,
        row: Mapping[str, Any],
        tenant: str,
        size: int,
        besides: Callable[[AsyncConnection], Awaitable[None]] | None = None,
        first: Callable[[AsyncConnection], Awaitable[None]] | None = None,
        *,
        is_spared: bool = False,
    ) -> None:
        """Stores a row, with what goes before it and what belongs to it, in one transaction; spared as by `_count`."""
        whole = {**row, "tenant": tenant, "bytes": size, "expires_at": self._clock() + self._keep_s}

        async def work(connection: AsyncConnection) -> None:
            if first is not None:
                await first(connection)
            await connection.execute(insert(self._table), [whole])
            if besides is not None:
                await besides(connection)
            await self._count(connection, tenant, size, whole["id"] if is_spared else None)

        await self._database.run(work)

    async def _delete(self, id: str, tenant: str) -> bool:
        """Removes a row; whether it was there."""

        async def work(connection: AsyncConnection) -> bool:
            query = select(self._table.c.id).where(self._are([id], tenant))
            found = (await connection.execute(query.with_for_update())).all()
            if found:
                await self._add(connection, tenant, -await self._remove(connection, [id]))
            return bool(found)

        return await self._database.run(work)

    async def _all(self, query: Select[Any]) -> Sequence[Row[Any]]:
        async def work(connection: AsyncConnection) -> Sequence[Row[Any]]:
            found: Sequence[Row[Any]] = (await connection.execute(query)).all()
            return found

        return await self._database.run(work)

    def _of(self, tenant: str) -> ColumnElement[bool]:
        """Whether a row is there, for a tenant."""
        return (self._table.c.tenant == tenant) & (self._table.c.expires_at > self._clock())

    def _are(self, ids: Collection[str], tenant: str) -> ColumnElement[bool]:
        """Whether a row is there, for a tenant, and one of some."""
        return self._of(tenant) & self._table.c.id.in_([id for id in ids if self._is_id(id)])

    async def _count(self, connection: AsyncConnection, tenant: str, size: int, spared: str | None = None) -> None:
        """Counts bytes that a tenant has more of, and removes what is past its share then.

        Args:
            connection: In a transaction, until whose end nobody else counts for the tenant.
            tenant: The tenant.
            size: How many.
            spared: The id of a row that stays whatever its size, since more is to be said of it; None: there is none.
        """
        kept = await self._add(connection, tenant, size)
        while kept > self._tenant_bytes:
            gone = await self._first(connection, tenant, kept - self._tenant_bytes, spared)
            if not gone:
                # Others are removing all there is.
                break
            kept = await self._add(connection, tenant, -await self._remove(connection, gone))

    async def _sweep(self) -> None:
        with suppress(DatabaseUnavailable):
            # The log and /metrics say so already, and the next time comes.
            while await self._database.run(self._expire) == _BATCH:
                pass

    async def _expire(self, connection: AsyncConnection) -> int:
        """Removes what has expired, some at a time; returns how many."""
        columns = self._table.c
        query = select(columns.id, columns.tenant, columns.bytes)
        query = query.where(columns.expires_at <= self._clock()).order_by(columns.expires_at).limit(_BATCH)
        # What another replica is removing already is left to it.
        found = (await connection.execute(query.with_for_update(skip_locked=True))).all()
        await self._remove(connection, [row.id for row in found])
        freed: Counter[str] = Counter()
        for row in found:
            freed[row.tenant] += row.bytes
        # In one order everywhere: two transactions that wait for each other's would both be given up.
        for tenant in sorted(freed):
            await self._add(connection, tenant, -freed[tenant])
        return len(found)

    async def _first(self, connection: AsyncConnection, tenant: str, excess: int, spared: str | None) -> Sequence[str]:
        """A tenant's rows that expire first, and hold so many bytes; not all of them where that takes too many."""
        columns = self._table.c
        query = select(columns.id, columns.bytes).where(columns.tenant == tenant)
        if spared is not None:
            query = query.where(columns.id != spared)
        query = query.order_by(columns.expires_at, columns.id).limit(_BATCH)
        found: list[str] = []
        # Whoever counts bytes waits for no row: who removes one holds it already, and waits to count.
        for row in (await connection.execute(query.with_for_update(skip_locked=True))).all():
            if excess <= 0:
                break
            found.append(row.id)
            excess -= row.bytes
        return found

    async def _remove(self, connection: AsyncConnection, ids: Sequence[str]) -> int:
        """Removes rows; returns their bytes."""
        columns = self._table.c
        gone = await connection.execute(delete(self._table).where(columns.id.in_(ids)).returning(columns.bytes))
        return sum(row.bytes for row in gone.all())

    async def _add(self, connection: AsyncConnection, tenant: str, size: int) -> int:
        """Counts bytes for a tenant; returns what it has then."""
        tenants = self._tenants
        if size <= 0:
            query = update(tenants).where(tenants.c.tenant == tenant).values(bytes=tenants.c.bytes + size)
            return int((await connection.execute(query.returning(tenants.c.bytes))).scalar_one_or_none() or 0)
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        new = dialect.insert(tenants).values(tenant=tenant, bytes=size)
        counted = new.on_conflict_do_update(index_elements=["tenant"], set_={"bytes": tenants.c.bytes + size})
        return int((await connection.execute(counted.returning(tenants.c.bytes))).scalar_one())
