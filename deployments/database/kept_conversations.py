"""Conversations by name: their items, in the order in which they were added."""

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database.database import Database
from deployments.database.tables import CONVERSATION_ITEMS as ITEMS
from deployments.database.tables import CONVERSATION_TENANTS, CONVERSATIONS
from deployments.database.tenant_rows import TenantRows
from engines.errors import ConversationFull, InvalidRequest, PenstockError

MOST_ITEMS = 10_000
"""Of a conversation."""
_ROW_BYTES, _ITEM_BYTES = 512, 128
"""What a conversation and an item cost besides what is said: many empty ones are not to cost nothing."""
_ID = re.compile(r"conv_[0-9a-f]{32}")
_ITEM_ID = re.compile(r"[a-z]{2,3}_[0-9a-z_]{1,56}")

KeptItem = tuple[str, str]
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


class KeptConversations(TenantRows):
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
        super().__init__(database, CONVERSATIONS, CONVERSATION_TENANTS, _ID.fullmatch, keep_s, tenant_bytes, clock)
        self._most_bytes = most_bytes

    async def create(self, tenant: str, metadata: Mapping[str, str], items: Sequence[KeptItem]) -> KeptConversation:
        """Begins a conversation.

        Raises:
            ConversationFull: It would be too large.
            DatabaseUnavailable: The database does not answer.
        """
        id, now_s = f"conv_{uuid.uuid4().hex}", int(self._clock())
        text = json.dumps(metadata)
        size = _ROW_BYTES + len(text) + _bytes(items)
        self._check(len(items), size)
        row = {
            "id": id,
            "created_at": now_s,
            "metadata": text,
            "item_count": len(items),
            "last_number": len(items),
        }

        async def say(connection: AsyncConnection) -> None:
            await _write(connection, id, 1, items)

        await self._insert(row, tenant, size, say, is_spared=True)
        return KeptConversation(id, now_s, metadata, len(items), size)

    async def find(self, id: str, tenant: str) -> KeptConversation:
        """A conversation.

        Raises:
            ConversationNotFound: It is not stored.
            DatabaseUnavailable: The database does not answer.
        """
        rows = await self._all(select(CONVERSATIONS).where(self._are([id], tenant)))
        if not rows:
            raise ConversationNotFound(id)
        (row,) = rows
        return KeptConversation(row.id, row.created_at, json.loads(row.metadata), row.item_count, row.bytes)

    async def update(self, id: str, tenant: str, metadata: Mapping[str, str]) -> KeptConversation:
        """Notes something else of a conversation; raises as `find`."""
        text = json.dumps(metadata)

        async def work(connection: AsyncConnection) -> KeptConversation:
            row = await self._found(connection, id, tenant)
            change = len(text) - len(row.metadata)
            values = {"metadata": text, "bytes": row.bytes + change, "expires_at": self._clock() + self._keep_s}
            await connection.execute(update(CONVERSATIONS).where(CONVERSATIONS.c.id == id).values(**values))
            await self._count(connection, tenant, change, id)
            return KeptConversation(id, row.created_at, metadata, row.item_count, row.bytes + change)

        return await self._database.run(work)

    async def delete(self, id: str, tenant: str) -> None:
        """Removes a conversation; raises as `find`."""
        if not await self._delete(id, tenant):
            raise ConversationNotFound(id)

    async def add(self, id: str, tenant: str, items: Sequence[KeptItem]) -> None:
        """Adds items to a conversation.

        Raises:
            ConversationNotFound: It is not stored.
            ConversationFull: It has as much as it may.
            DatabaseUnavailable: The database does not answer.
        """

        async def work(connection: AsyncConnection) -> None:
            row = await self._found(connection, id, tenant)
            self._check(row.item_count + len(items), row.bytes + _bytes(items))
            await self._append(connection, row, items)

        await self._database.run(work)

    async def answered(self, connection: AsyncConnection, id: str, tenant: str, items: Sequence[KeptItem]) -> None:
        """Adds what a response has said and was told, as a part of a transaction.

        One that has been deleted meanwhile is not made anew; and what was answered already is not refused for its size.
        """
        row = await self._locked(connection, id, tenant)
        if row is not None:
            await self._append(connection, row, items)

    async def items(
        self, id: str, tenant: str, *, after: str | None, limit: int, order: Literal["asc", "desc"]
    ) -> Sequence[KeptItem]:
        """Items of a conversation.

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

        async def work(connection: AsyncConnection) -> Sequence[KeptItem]:
            await self._found(connection, id, tenant)
            query = select(ITEMS.c.id, ITEMS.c.item).where(ITEMS.c.conversation == id)
            if after is not None:
                number = await _number(connection, id, after)
                if number is None:
                    message = f"after: there is no item {after[:64]!r} in this conversation."
                    raise InvalidRequest(message, param="after")
                query = query.where(ITEMS.c.number > number if order == "asc" else ITEMS.c.number < number)
            by = ITEMS.c.number if order == "asc" else ITEMS.c.number.desc()
            return [(row.id, row.item) for row in (await connection.execute(query.order_by(by).limit(limit))).all()]

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
            size = _bytes([(item, (await connection.execute(gone)).scalar_one())])
            values = {"item_count": row.item_count - 1, "bytes": row.bytes - size}
            await connection.execute(update(CONVERSATIONS).where(CONVERSATIONS.c.id == id).values(**values))
            await self._add(connection, tenant, -size)
            return KeptConversation(id, row.created_at, json.loads(row.metadata), values["item_count"], values["bytes"])

        return await self._database.run(work)

    async def _locked(self, connection: AsyncConnection, id: str, tenant: str) -> Row[Any] | None:
        """A conversation, which nobody else changes until the transaction ends; None: it is not stored."""
        query = select(CONVERSATIONS).where(self._are([id], tenant)).with_for_update()
        return (await connection.execute(query)).one_or_none()

    async def _found(self, connection: AsyncConnection, id: str, tenant: str) -> Row[Any]:
        row = await self._locked(connection, id, tenant)
        if row is None:
            raise ConversationNotFound(id)
        return row

    def _check(self, count: int, size: int) -> None:
        """Refuses to have a conversation become so large.

        Raises:
            ConversationFull: It may not.
        """
        if size > self._most_bytes or count > MOST_ITEMS:
            raise ConversationFull(
                f"items: the conversation would have {count} items and {size} bytes, of at most {MOST_ITEMS} and "
                f"{self._most_bytes}. Begin a new one.",
                param="items",
            )

    async def _append(self, connection: AsyncConnection, row: Row[Any], items: Sequence[KeptItem]) -> None:
        """Adds items to a conversation that nobody else changes meanwhile."""
        size = _bytes(items)
        await _write(connection, row.id, row.last_number + 1, items)
        values = {
            "item_count": row.item_count + len(items),
            "last_number": row.last_number + len(items),
            "bytes": row.bytes + size,
            "expires_at": self._clock() + self._keep_s,
        }
        await connection.execute(update(CONVERSATIONS).where(CONVERSATIONS.c.id == row.id).values(**values))
        await self._count(connection, row.tenant, size, row.id)


def _bytes(items: Sequence[KeptItem]) -> int:
    """What items cost."""
    return sum(_ITEM_BYTES + len(text) for _, text in items)


async def _write(connection: AsyncConnection, conversation: str, first: int, items: Sequence[KeptItem]) -> None:
    """Stores items of a conversation, the first with that number."""
    rows = [
        {"conversation": conversation, "number": first + index, "id": id, "item": text}
        for index, (id, text) in enumerate(items)
    ]
    if rows:
        await connection.execute(insert(ITEMS), rows)


async def _number(connection: AsyncConnection, conversation: str, id: str) -> int | None:
    """The number of an item; None: there is none of that id."""
    if not _ITEM_ID.fullmatch(id):
        return None
    query = select(func.min(ITEMS.c.number)).where(ITEMS.c.conversation == conversation, ITEMS.c.id == id)
    found: int | None = (await connection.execute(query)).scalar_one()
    return found
