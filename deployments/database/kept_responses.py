"""Responses that can be read again, and gone on from: each with its input, and the one before it.

What a tenant has is counted as it is written, so that its share holds at every moment.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database.database import Database, DatabaseUnavailable
from deployments.database.kept_conversations import KeptConversations, NewItem
from deployments.database.tables import RESPONSE_TENANTS as TENANTS
from deployments.database.tables import RESPONSES
from deployments.database.tenant_bytes import add_bytes
from deployments.followed_file import Follower
from engines.errors import ConversationFull, InvalidRequest, PenstockError

SWEEP_S = 10.0
"""How often responses are removed that are past their end."""
MOST_LINKS = 1000
"""Of a conversation: responses that go on from one another."""
_BATCH = 256
"""Responses that one transaction removes, at most, for each that it writes."""
_ID = re.compile(r"resp_[0-9a-f]{32}")


class ResponseNotFound(PenstockError):
    """No response of that id is stored for whoever asks."""

    status = 404
    kind = "invalid_request_error"
    code = "response_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"No response {id[:64]!r} is stored: it was deleted or is too old, was not stored, or is not this key's."
        )


class PreviousResponseNotFound(InvalidRequest):
    """The response to go on from is not stored for whoever asks, or one before it is not any more."""

    code = "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of a stored conversation.

    Attributes:
        links: Responses in it.
        bytes: Of what was said in them.
    """

    links: int
    bytes: int


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A stored response.

    Attributes:
        id: Its id.
        response: As clients read it, without its output, as JSON text.
        input: The items of its input, likewise.
        output: The items of its output, likewise.
        rhythm: How its stream was said, as JSON text; empty: it was none.
        previous: The id of the one that it goes on from; None: it is the first.
        history: The conversation up to it, itself included.
        conversation: The id of the conversation that it is in; None: none.
    """

    id: str
    response: str
    input: str
    output: str
    rhythm: str
    previous: str | None
    history: Size
    conversation: str | None = None


class KeptResponses:
    """The responses in a database.

    Args:
        database: Where they are.
        keep_s: How long each is kept.
        tenant_bytes: What of one tenant is kept; past it, those are removed that would expire first.
        clock: Unix time in seconds.
        conversations: Those that responses are in; None: there are none.
    """

    def __init__(
        self,
        database: Database,
        keep_s: float,
        tenant_bytes: int,
        clock: Callable[[], float] = time.time,
        conversations: KeptConversations | None = None,
    ) -> None:
        self._database = database
        self._conversations = conversations
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

    async def keep(
        self, response: KeptResponse, tenant: str, items: Sequence[NewItem] = (), *, is_stored: bool = True
    ) -> None:
        """Stores a response, and adds to its conversation: both, or neither.

        Args:
            response: The response.
            tenant: Whose it is.
            items: What its conversation gains.
            is_stored: Whether the response itself is stored, too.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """

        async def work(connection: AsyncConnection) -> None:
            if is_stored:
                await self._write(connection, response, tenant)
            if response.conversation is not None and items:
                assert self._conversations is not None
                await self._conversations.answered(connection, response.conversation, tenant, items)

        await self._database.run(work)

    async def _write(self, connection: AsyncConnection, response: KeptResponse, tenant: str) -> None:
        size = sum(map(len, (response.response, response.input, response.output, response.rhythm)))
        row = {
            "id": response.id,
            "tenant": tenant,
            "previous": response.previous,
            "conversation": response.conversation,
            "depth": response.history.links,
            "history_bytes": response.history.bytes,
            "response": response.response,
            "input": response.input,
            "output": response.output,
            "rhythm": response.rhythm,
            "bytes": size,
            "expires_at": self._clock() + self._keep_s,
        }

        await connection.execute(insert(RESPONSES), [row])
        kept = await add_bytes(connection, TENANTS, tenant, size)
        while kept > self._tenant_bytes:
            gone = await _first(connection, tenant, kept - self._tenant_bytes)
            if not gone:
                # Others are removing all there is.
                break
            kept = await add_bytes(connection, TENANTS, tenant, -await _remove(connection, RESPONSES.c.id.in_(gone)))

    async def bytes(self, ids: Collection[str], tenant: str) -> int:
        """How large responses are together; what is not stored counts nothing.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        query = select(func.sum(RESPONSES.c.bytes)).where(self._of(tenant), RESPONSES.c.id.in_(response_ids(ids)))
        ((found,),) = await self._all(query)
        return int(found or 0)

    async def find(self, ids: Collection[str], tenant: str) -> dict[str, KeptResponse]:
        """Those of some responses that are stored, by id.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        query = select(RESPONSES).where(self._of(tenant), RESPONSES.c.id.in_(response_ids(ids)))
        rows = await self._all(query)
        return {
            row.id: KeptResponse(
                row.id,
                row.response,
                row.input,
                row.output,
                row.rhythm,
                row.previous,
                Size(row.depth, row.history_bytes),
                row.conversation,
            )
            for row in rows
        }

    async def delete(self, id: str, tenant: str) -> None:
        """Removes a response.

        Raises:
            ResponseNotFound: It is not stored.
            DatabaseUnavailable: The database does not answer.
        """

        async def work(connection: AsyncConnection) -> int:
            query = select(RESPONSES.c.id).where(self._of(tenant), RESPONSES.c.id.in_(response_ids([id])))
            found = (await connection.execute(query.with_for_update())).all()
            if found:
                await add_bytes(connection, TENANTS, tenant, -await _remove(connection, RESPONSES.c.id == id))
            return len(found)

        if not await self._database.run(work):
            raise ResponseNotFound(id)

    async def size(self, id: str, tenant: str, most_bytes: int) -> Size:
        """How much there is of the conversation up to a response, if it may be gone on from.

        Raises:
            PreviousResponseNotFound: It is not stored.
            InvalidRequest: It is in a conversation.
            ConversationFull: There is as much of it as may be.
            DatabaseUnavailable: The database does not answer.
        """
        query = select(RESPONSES.c.depth, RESPONSES.c.history_bytes, RESPONSES.c.conversation)
        query = query.where(self._of(tenant), RESPONSES.c.id.in_(response_ids([id])))
        rows = await self._all(query)
        if not rows:
            raise _no_previous(f"no response {id[:64]!r} is stored")
        (row,) = rows
        if row.conversation is not None:
            # What was said in it before would be missed by nobody but the model.
            raise InvalidRequest(
                f"previous_response_id: the response {id[:64]!r} is in the conversation {row.conversation!r}. "
                "Name that in conversation instead.",
                param="previous_response_id",
            )
        if row.depth >= MOST_LINKS or row.history_bytes > most_bytes:
            raise ConversationFull(
                f"previous_response_id: the conversation has {row.depth} responses and {row.history_bytes} bytes, of "
                f"at most {MOST_LINKS} and {most_bytes}. Begin a new one.",
                param="previous_response_id",
            )
        return Size(row.depth, row.history_bytes)

    async def history(self, id: str, tenant: str) -> Sequence[tuple[str, str]]:
        """What was said up to a response: each input and output, as JSON texts, the first one first.

        Raises:
            PreviousResponseNotFound: One of them is not stored any more.
            DatabaseUnavailable: The database does not answer.
        """
        rows = RESPONSES.alias()
        last = select(RESPONSES.c.id, RESPONSES.c.previous).where(self._of(tenant), RESPONSES.c.id == id)
        chain = last.cte("chain", recursive=True)
        earlier = select(rows.c.id, rows.c.previous).where(rows.c.id == chain.c.previous, rows.c.tenant == tenant)
        chain = chain.union_all(earlier)
        query = select(RESPONSES.c.input, RESPONSES.c.output, RESPONSES.c.depth)
        query = query.where(RESPONSES.c.id.in_(select(chain.c.id))).order_by(RESPONSES.c.depth)
        found = await self._all(query)
        # One that is gone would be missed by nobody but the model.
        if not found or found[0].depth != 1:
            raise _no_previous(f"a response that {id[:64]!r} goes on from is not stored any more")
        return [(row.input, row.output) for row in found]

    async def _all(self, query: Select[Any]) -> Sequence[Row[Any]]:
        async def work(connection: AsyncConnection) -> Sequence[Row[Any]]:
            found: Sequence[Row[Any]] = (await connection.execute(query)).all()
            return found

        return await self._database.run(work)

    def _of(self, tenant: str) -> ColumnElement[bool]:
        """Whether a response is there, for a tenant."""
        return (RESPONSES.c.tenant == tenant) & (RESPONSES.c.expires_at > self._clock())

    async def _sweep(self) -> None:
        with suppress(DatabaseUnavailable):
            # The log and /metrics say so already, and the next time comes.
            while await self._database.run(self._expire) == _BATCH:
                pass

    async def _expire(self, connection: AsyncConnection) -> int:
        """Removes what has expired, some at a time; returns how many."""
        query = select(RESPONSES.c.id, RESPONSES.c.tenant, RESPONSES.c.bytes)
        query = query.where(RESPONSES.c.expires_at <= self._clock()).order_by(RESPONSES.c.expires_at).limit(_BATCH)
        # What another replica is removing already is left to it.
        found = (await connection.execute(query.with_for_update(skip_locked=True))).all()
        await _remove(connection, RESPONSES.c.id.in_([row.id for row in found]))
        freed: Counter[str] = Counter()
        for row in found:
            freed[row.tenant] += row.bytes
        # In one order everywhere: two transactions that wait for each other's would both be given up.
        for tenant in sorted(freed):
            await add_bytes(connection, TENANTS, tenant, -freed[tenant])
        return len(found)


def response_ids(ids: Collection[str]) -> Collection[str]:
    """Those that are ids at all: what else a client sends need not even be a text to a database."""
    return [id for id in ids if _ID.fullmatch(id)]


def _no_previous(why: str) -> PreviousResponseNotFound:
    message = f"previous_response_id: {why} for this key. Send the whole conversation in input."
    return PreviousResponseNotFound(message, param="previous_response_id")


async def _first(connection: AsyncConnection, tenant: str, excess: int) -> Sequence[str]:
    """A tenant's responses that expire first, and hold so many bytes; not all of them where that takes too many."""
    query = select(RESPONSES.c.id, RESPONSES.c.bytes).where(RESPONSES.c.tenant == tenant)
    query = query.order_by(RESPONSES.c.expires_at, RESPONSES.c.id).limit(_BATCH)
    found: list[str] = []
    # Whoever counts bytes waits for no response: who removes one holds it already, and waits to count.
    for row in (await connection.execute(query.with_for_update(skip_locked=True))).all():
        if excess <= 0:
            break
        found.append(row.id)
        excess -= row.bytes
    return found


async def _remove(connection: AsyncConnection, which: ColumnElement[bool]) -> int:
    """Removes responses; returns their bytes."""
    gone = (await connection.execute(delete(RESPONSES).where(which).returning(RESPONSES.c.bytes))).all()
    return sum(row.bytes for row in gone)
