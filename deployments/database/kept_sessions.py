"""Realtime sessions that outlive their router replica: what was said in them, and who holds them.

Each is written as it grows, by whoever holds it. A session costs nothing while nothing is said in it.
"""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database.database import Database, DatabaseUnavailable
from deployments.database.group_commit import GroupCommit
from deployments.database.session_record import Changes, SessionRecord, TakenUp
from deployments.database.tables import REALTIME_ITEMS as ITEMS
from deployments.database.tables import REALTIME_SESSIONS as SESSIONS
from deployments.followed_file import Follower
from engines.conversation.frames import Item, TurnSettings
from engines.errors import PenstockError
from engines.turns import Turns

SWEEP_S = 10.0
"""How often sessions are removed that are past their end, or their tenant's share."""
_BATCH = 256
"""Sessions that one transaction writes, or removes, at most."""
_ID = re.compile(r"sess_[0-9a-f]{32}")


class SessionNotFound(PenstockError):
    """No session of that id is kept for whoever asks."""

    status = 404
    kind = "invalid_request_error"
    code = "session_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"No session {id[:64]!r} is kept: it ended too long ago, or is not this key's or not this model's. Open a "
            "new one.",
            param="session_id",
        )


class KeptSessions:
    """The sessions in a database.

    Args:
        database: Where they are.
        tenant_bytes: What of one tenant is kept; past it, those are removed that would expire first.
        clock: Unix time in seconds.
    """

    def __init__(self, database: Database, tenant_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._tenant_bytes = tenant_bytes
        self._clock = clock
        self._commits = GroupCommit[SessionRecord](self._write, _BATCH)
        self._sweeper: Follower | None = None

    def start(self) -> None:
        """Begins to write, and to remove what has expired."""
        self._commits.start()
        self._sweeper = Follower(self._sweep, SWEEP_S)

    async def stop(self) -> None:
        """Writes no more."""
        if self._sweeper is not None:
            await self._sweeper.stop()
        await self._commits.stop()

    def mark(self, record: SessionRecord) -> None:
        """Something of it is to be written."""
        self._commits.mark(record)

    async def committed(self, record: SessionRecord) -> None:
        """Returns once all that was said is written.

        Raises:
            DatabaseUnavailable: It is not: the database does not answer.
        """
        await self._commits.committed(record)

    async def take_up(self, id: str, tenant: str, model: str) -> TakenUp:
        """Takes a session up. Whoever held it loses it.

        Raises:
            SessionNotFound: No session of that id is kept, of that tenant and model.
            DatabaseUnavailable: The database does not answer.
        """
        if not _ID.fullmatch(id):
            raise SessionNotFound(id)
        found, rows = await self._database.run(lambda connection: self._take(connection, id, tenant, model))
        parsed, turns = [], Turns()
        for row in rows:
            parsed.append(Item.model_validate_json(row.item))
            await turns.pause()
        settings = TurnSettings.model_validate_json(found.settings)
        return TakenUp(settings, parsed, [(row.number, row.position) for row in rows], found.epoch)

    async def _take(
        self, connection: AsyncConnection, id: str, tenant: str, model: str
    ) -> tuple[Row[int, str], Sequence[Row[int, float, str]]]:
        """The rows of a session and of its items; from now on nobody else holds it."""
        query = (
            update(SESSIONS)
            .where(SESSIONS.c.id == id, SESSIONS.c.tenant == tenant, SESSIONS.c.model == model)
            .where(SESSIONS.c.expires_at > self._clock())
            .values(epoch=SESSIONS.c.epoch + 1)
            .returning(SESSIONS.c.epoch, SESSIONS.c.settings)
        )
        found = (await connection.execute(query)).one_or_none()
        if found is None:
            raise SessionNotFound(id)
        items = select(ITEMS.c.number, ITEMS.c.position, ITEMS.c.item).where(ITEMS.c.session == id)
        return found, (await connection.execute(items.order_by(ITEMS.c.position))).all()

    async def _write(self, records: Sequence[SessionRecord]) -> None:
        """Writes what has changed of some, and tells those that were lost."""
        changes: dict[SessionRecord, Changes] = {}
        try:
            for record in records:
                changes[record] = record.take_changes()
            epochs = await self._database.run(lambda connection: self._write_held(connection, changes))
        except Exception:
            for record, change in changes.items():
                record.give_back(change)
            raise
        for record in records:
            record.is_new = False
            if epochs.get(record.id, record.epoch) != record.epoch:
                record.lost()

    async def _write_held(self, connection: AsyncConnection, changes: dict[SessionRecord, Changes]) -> dict[str, int]:
        """Writes those that nobody else has taken up; returns how often each was, by id."""
        epochs = await _epochs(connection, list(changes))
        now_s = self._clock()
        new, rows = [], []
        for record, change in changes.items():
            fields = {**change.fields, "expires_at": now_s + record.lifetime_s}
            if record.id not in epochs:
                # One that was there and is not any more was past its tenant's share.
                if not record.is_new:
                    continue
                new.append({"id": record.id, **fields})
            elif epochs[record.id] != record.epoch:
                continue
            else:
                await connection.execute(update(SESSIONS).where(SESSIONS.c.id == record.id).values(**fields))
                of_it = delete(ITEMS).where(ITEMS.c.session == record.id)
                if change.gone is None:
                    await connection.execute(of_it)
                elif change.gone:
                    await connection.execute(of_it.where(ITEMS.c.number.in_(change.gone)))
            rows += change.rows
        if new:
            await connection.execute(insert(SESSIONS), new)
        if rows:
            await connection.execute(insert(ITEMS), rows)
        return epochs

    async def _sweep(self) -> None:
        with suppress(DatabaseUnavailable):
            # The log and /metrics say so already, and the next time comes.
            await self._database.run(self._remove)

    async def _remove(self, connection: AsyncConnection) -> None:
        """Removes what has expired, and what is past its tenant's share."""
        await connection.execute(delete(SESSIONS).where(SESSIONS.c.expires_at <= self._clock()))
        total = func.sum(SESSIONS.c.bytes)
        query = select(SESSIONS.c.tenant, total).group_by(SESSIONS.c.tenant).having(total > self._tenant_bytes)
        for tenant, kept in (await connection.execute(query)).all():
            await _shrink(connection, tenant, int(kept) - self._tenant_bytes)


async def _epochs(connection: AsyncConnection, records: Sequence[SessionRecord]) -> dict[str, int]:
    """By id, how often those that are there were taken up; nobody takes one up before the transaction ends."""
    ids = [record.id for record in records]
    # In one order everywhere: two transactions that wait for each other's would both be given up.
    query = select(SESSIONS.c.id, SESSIONS.c.epoch).where(SESSIONS.c.id.in_(ids)).order_by(SESSIONS.c.id)
    return {row.id: row.epoch for row in (await connection.execute(query.with_for_update())).all()}


async def _shrink(connection: AsyncConnection, tenant: str, excess: int) -> None:
    query = select(SESSIONS.c.id, SESSIONS.c.bytes).where(SESSIONS.c.tenant == tenant)
    gone = []
    for row in (await connection.execute(query.order_by(SESSIONS.c.expires_at))).all():
        if excess <= 0:
            break
        gone.append(row.id)
        excess -= row.bytes
    for start in range(0, len(gone), _BATCH):
        await connection.execute(delete(SESSIONS).where(SESSIONS.c.id.in_(gone[start : start + _BATCH])))
