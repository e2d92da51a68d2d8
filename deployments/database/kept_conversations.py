"""Conversations by name: their items, in the order in which they were added.

What a tenant has is counted as it is written, so that its share holds at every moment.
"""

import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database.database import Database, DatabaseUnavailable
from deployments.database.tables import CONVERSATION_ITEMS as ITEMS
from deployments.database.tables import CONVERSATION_TENANTS as TENANTS
from deployments.database.tables import CONVERSATIONS
from deployments.database.tenant_bytes import add_bytes
from deployments.followed_file import Follower
from engines.errors import ConversationFull, InvalidRequest, PenstockError

SWEEP_S = 10.0
"""How often conversations are removed that are past their end."""
MOST_ITEMS = 10_000
"""Of a conversation."""
_ROW_BYTES, _ITEM_BYTES = 512, 128
"""What a conversation and an item cost besides what is said: many empty ones are not to cost nothing."""
_BATCH = 256
"""Conversations that one transaction removes, at most."""
_ID = re.compile(r"conv_[0-9a-f]{32}")
_ITEM_ID = re.compile(r"[a-z]{2,3}_[0-9a-z_]{1,56}")

NewItem = tuple[str, str]
"""An item's id, and the item as clients read it, as JSON text of ASCII."""


class ConversationNotFound(PenstockError):
    """No conversation of that id is kept for whoever asks."""

    status = 404
    kind = "invalid_request_error"
    code = "conversation_not_found"

    def __init__(self, id: str, param: str | None = None) -> None:
        where = "" if param is None else f"{param}: "
        message = f"{where}no conversation {id[:64]!r} is stored: it was deleted, is too old, or is not this key's."
        super().__init__(message[0].upper() + message[1:] if param is None else message, param=param)


class ConversationItemNotFound(PenstockError):
    """The conversation has no item of that id."""

    status = 404
    kind = "invalid_request_error"
    code = "conversation_item_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(f"The conversation has no item {id[:64]!r}.")


@dataclass(frozen=True, slots=True)
class KeptConversation:
    """A conversation.

    Attributes:
        id: Its id.
        created_s: Unix time.
        metadata: What its client notes of it.
        items: How many it has.
        bytes: What they cost.
    """

    id: str
    created_s: int
    metadata: Mapping[str, str]
    items: int
    bytes: int


class KeptConversations:
    """The conversations in a database.

    Args:
        database: Where they are.
        keep_s: How long each is kept after its last change.
        tenant_bytes: What of one tenant is kept; past it, those are removed that would expire first.
        most_bytes: What one may have.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        database: Database,
        keep_s: float,
        tenant_bytes: int,
        most_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keep_s = keep_s
        self._tenant_bytes = tenant_bytes
        self._most_bytes = most_bytes
        self._clock = clock
        self._sweeper: Follower | None = None

    def start(self) -> None:
        """Begins to remove what has expired."""
        self._sweeper = Follower(self._sweep, SWEEP_S)

    async def stop(self) -> None:
        """Removes nothing more."""
        if self._sweeper is not None:
            await self._sweeper.stop()

    async def create(self, tenant: str, metadata: Mapping[str, str], items: Sequence[NewItem]) -> KeptConversation:
        """Begins a conversation.

        Raises:
            ConversationFull: It would be too large.
            DatabaseUnavailable: The database does not answer.
        """
        id, now_s = f"conv_{uuid.uuid4().hex}", int(self._clock())
        text = json.dumps(metadata)
        size = _ROW_BYTES + len(text)
        row = {
            "id": id,
            "tenant": tenant,
            "created_at": now_s,
            "metadata": text,
            "item_count": 0,
            "last_number": 0,
            "bytes": size,
            "expires_at": self._clock() + self._keep_s,
        }

        async def work(connection: AsyncConnection) -> KeptConversation:
            await connection.execute(insert(CONVERSATIONS), [row])
            found = await self._locked(connection, id, tenant)
            assert found is not None
            added = await self._append(connection, found, items, size)
            return KeptConversation(id, now_s, metadata, len(items), size + added)

        return await self._database.run(work)

    async def find(self, id: str, tenant: str) -> KeptConversation:
        """A conversation.

        Raises:
            ConversationNotFound: It is not stored.
            DatabaseUnavailable: The database does not answer.
        """

        async def work(connection: AsyncConnection) -> KeptConversation:
            query = select(CONVERSATIONS).where(self._is(id, tenant))
            row = (await connection.execute(query)).one_or_none() if _ID.fullmatch(id) else None
            if row is None:
                raise ConversationNotFound(id)
            return _kept(row)

        return await self._database.run(work)

    async def update(self, id: str, tenant: str, metadata: Mapping[str, str]) -> KeptConversation:
        """Notes something else of a conversation; raises as `find`."""
        text = json.dumps(metadata)

        async def work(connection: AsyncConnection) -> KeptConversation:
            row = await self._found(connection, id, tenant)
            change = len(text) - len(row.metadata)
            values = {"metadata": text, "bytes": row.bytes + change, "expires_at": self._clock() + self._keep_s}
            await connection.execute(update(CONVERSATIONS).where(CONVERSATIONS.c.id == id).values(**values))
            await self._count(connection, tenant, id, change)
            return KeptConversation(id, row.created_at, metadata, row.item_count, row.bytes + change)

        return await self._database.run(work)

    async def delete(self, id: str, tenant: str) -> None:
        """Removes a conversation; raises as `find`."""

        async def work(connection: AsyncConnection) -> None:
            row = await self._found(connection, id, tenant)
            await connection.execute(delete(CONVERSATIONS).where(CONVERSATIONS.c.id == id))
            await add_bytes(connection, TENANTS, tenant, -row.bytes)

        await self._database.run(work)

    async def add(self, id: str, tenant: str, items: Sequence[NewItem]) -> None:
        """Adds items to a conversation.

        Raises:
            ConversationNotFound: It is not stored.
            ConversationFull: It has as much as it may.
            DatabaseUnavailable: The database does not answer.
        """

        async def work(connection: AsyncConnection) -> None:
            row = await self._found(connection, id, tenant)
            await self._append(connection, row, items, 0)

        await self._database.run(work)

    async def answered(self, connection: AsyncConnection, id: str, tenant: str, items: Sequence[NewItem]) -> None:
        """Adds what a response has said and was told, as a part of a transaction.

        One that has been deleted meanwhile is not made anew; and what was answered already is not refused for its size.
        """
        row = await self._locked(connection, id, tenant)
        if row is not None:
            await self._append(connection, row, items, 0, is_bounded=False)

    async def items(
        self, id: str, tenant: str, *, after: str | None, limit: int, order: Literal["asc", "desc"]
    ) -> Sequence[str]:
        """Items of a conversation, each as JSON text.

        Args:
            id: The conversation.
            tenant: Whose it is.
            after: Those after the item of this id, in their order; None: from the first on.
            limit: So many at most.
            order: The first one first, or the last one.

        Raises:
            ConversationNotFound: It is not stored.
            InvalidRequest: It has no item to begin after.
            DatabaseUnavailable: The database does not answer.
        """

        async def work(connection: AsyncConnection) -> Sequence[str]:
            await self._found(connection, id, tenant)
            query = select(ITEMS.c.item).where(ITEMS.c.conversation == id)
            if after is not None:
                number = await _number(connection, id, after)
                if number is None:
                    message = f"after: there is no item {after[:64]!r} in this conversation."
                    raise InvalidRequest(message, param="after")
                query = query.where(ITEMS.c.number > number if order == "asc" else ITEMS.c.number < number)
            by = ITEMS.c.number if order == "asc" else ITEMS.c.number.desc()
            return [row.item for row in (await connection.execute(query.order_by(by).limit(limit))).all()]

        return await self._database.run(work)

    async def item(self, id: str, tenant: str, item: str) -> str:
        """An item, as JSON text.

        Raises:
            ConversationNotFound: The conversation is not stored.
            ConversationItemNotFound: It has none of that id.
            DatabaseUnavailable: The database does not answer.
        """

        async def work(connection: AsyncConnection) -> str:
            await self._found(connection, id, tenant)
            number = await _number(connection, id, item)
            if number is None:
                raise ConversationItemNotFound(item)
            query = select(ITEMS.c.item).where(ITEMS.c.conversation == id, ITEMS.c.number == number)
            return str((await connection.execute(query)).scalar_one())

        return await self._database.run(work)

    async def remove(self, id: str, tenant: str, item: str) -> KeptConversation:
        """Takes an item out, and returns the conversation; raises as `item`."""

        async def work(connection: AsyncConnection) -> KeptConversation:
            row = await self._found(connection, id, tenant)
            number = await _number(connection, id, item)
            if number is None:
                raise ConversationItemNotFound(item)
            gone = delete(ITEMS).where(ITEMS.c.conversation == id, ITEMS.c.number == number).returning(ITEMS.c.item)
            size = _ITEM_BYTES + len((await connection.execute(gone)).scalar_one())
            values = {"item_count": row.item_count - 1, "bytes": row.bytes - size}
            await connection.execute(update(CONVERSATIONS).where(CONVERSATIONS.c.id == id).values(**values))
            await add_bytes(connection, TENANTS, tenant, -size)
            return KeptConversation(id, row.created_at, json.loads(row.metadata), values["item_count"], values["bytes"])

        return await self._database.run(work)

    def _is(self, id: str, tenant: str) -> ColumnElement[bool]:
        """Whether a conversation is the one of an id, and there for a tenant."""
        columns = CONVERSATIONS.c
        return (columns.id == id) & (columns.tenant == tenant) & (columns.expires_at > self._clock())

    async def _locked(self, connection: AsyncConnection, id: str, tenant: str) -> Row[Any] | None:
        """A conversation, which nobody else changes until the transaction ends; None: it is not stored."""
        if not _ID.fullmatch(id):
            return None
        query = select(CONVERSATIONS).where(self._is(id, tenant)).with_for_update()
        return (await connection.execute(query)).one_or_none()

    async def _found(self, connection: AsyncConnection, id: str, tenant: str) -> Row[Any]:
        row = await self._locked(connection, id, tenant)
        if row is None:
            raise ConversationNotFound(id)
        return row

    async def _append(
        self, connection: AsyncConnection, row: Row[Any], items: Sequence[NewItem], new: int, *, is_bounded: bool = True
    ) -> int:
        """Adds items to a conversation, of which so many bytes are not counted yet; returns the bytes of the items."""
        size = sum(_ITEM_BYTES + len(text) for _, text in items)
        count = row.item_count + len(items)
        if is_bounded and (row.bytes + size > self._most_bytes or count > MOST_ITEMS):
            raise ConversationFull(
                f"items: the conversation would have {count} items and {row.bytes + size} bytes, of at most "
                f"{MOST_ITEMS} and {self._most_bytes}. Begin a new one.",
                param="items",
            )
        first = row.last_number + 1
        rows = [
            {"conversation": row.id, "number": first + index, "id": id, "item": text}
            for index, (id, text) in enumerate(items)
        ]
        if rows:
            await connection.execute(insert(ITEMS), rows)
        values = {
            "item_count": count,
            "last_number": row.last_number + len(items),
            "bytes": row.bytes + size,
            "expires_at": self._clock() + self._keep_s,
        }
        await connection.execute(update(CONVERSATIONS).where(CONVERSATIONS.c.id == row.id).values(**values))
        await self._count(connection, row.tenant, row.id, new + size)
        return size

    async def _count(self, connection: AsyncConnection, tenant: str, id: str, size: int) -> None:
        """Counts bytes, and removes others of the tenant's while it has more than its share."""
        kept = await add_bytes(connection, TENANTS, tenant, size)
        while kept > self._tenant_bytes:
            query = select(CONVERSATIONS.c.id, CONVERSATIONS.c.bytes).where(
                CONVERSATIONS.c.tenant == tenant, CONVERSATIONS.c.id != id
            )
            query = query.order_by(CONVERSATIONS.c.expires_at, CONVERSATIONS.c.id).limit(_BATCH)
            excess, gone = kept - self._tenant_bytes, []
            # Whoever counts bytes waits for no conversation: who changes one holds it already, and waits to count.
            for row in (await connection.execute(query.with_for_update(skip_locked=True))).all():
                if excess <= 0:
                    break
                gone.append(row.id)
                excess -= row.bytes
            if not gone:
                break
            kept = await add_bytes(connection, TENANTS, tenant, -await _remove(connection, gone))

    async def _sweep(self) -> None:
        with suppress(DatabaseUnavailable):
            # The log and /metrics say so already, and the next time comes.
            while await self._database.run(self._expire) == _BATCH:
                pass

    async def _expire(self, connection: AsyncConnection) -> int:
        """Removes what has expired, some at a time; returns how many."""
        query = select(CONVERSATIONS.c.id, CONVERSATIONS.c.tenant, CONVERSATIONS.c.bytes)
        query = query.where(CONVERSATIONS.c.expires_at <= self._clock()).order_by(CONVERSATIONS.c.expires_at)
        # What another replica is removing already is left to it.
        found = (await connection.execute(query.limit(_BATCH).with_for_update(skip_locked=True))).all()
        await _remove(connection, [row.id for row in found])
        freed: Counter[str] = Counter()
        for row in found:
            freed[row.tenant] += row.bytes
        # In one order everywhere: two transactions that wait for each other's would both be given up.
        for tenant in sorted(freed):
            await add_bytes(connection, TENANTS, tenant, -freed[tenant])
        return len(found)


def _kept(row: Row[Any]) -> KeptConversation:
    return KeptConversation(row.id, row.created_at, json.loads(row.metadata), row.item_count, row.bytes)


async def _number(connection: AsyncConnection, conversation: str, id: str) -> int | None:
    """The number of an item; None: there is none of that id."""
    if not _ITEM_ID.fullmatch(id):
        return None
    query = select(func.min(ITEMS.c.number)).where(ITEMS.c.conversation == conversation, ITEMS.c.id == id)
    found: int | None = (await connection.execute(query)).scalar_one()
    return found


async def _remove(connection: AsyncConnection, ids: Sequence[str]) -> int:
    """Removes conversations; returns their bytes."""
    gone = delete(CONVERSATIONS).where(CONVERSATIONS.c.id.in_(ids)).returning(CONVERSATIONS.c.bytes)
    return sum(row.bytes for row in (await connection.execute(gone)).all())
