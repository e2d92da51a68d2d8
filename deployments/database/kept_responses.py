"""Responses that can be read again, and gone on from: each with its input, and the one before it."""

import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database.database import Database
from deployments.database.kept_conversations import KeptConversations, KeptItem
from deployments.database.tables import RESPONSE_TENANTS, RESPONSES
from deployments.database.tenant_rows import TenantRows
from engines.errors import ConversationFull, InvalidRequest, PenstockError

MOST_LINKS = 1000
"""Of a conversation: responses that go on from one another."""
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


class KeptResponses(TenantRows):
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
        super().__init__(database, RESPONSES, RESPONSE_TENANTS, _ID.fullmatch, keep_s, tenant_bytes, clock)
        self._conversations = conversations

    async def keep(
        self,
        response: KeptResponse,
        tenant: str,
        items: Sequence[KeptItem] = (),
        first: Callable[[AsyncConnection], Awaitable[None]] | None = None,
        *,
        is_stored: bool = True,
    ) -> None:
        """Stores a response, and adds to its conversation: both, or neither.

        Args:
            response: The response.
            tenant: Whose it is.
            items: What its conversation gains.
            first: What is done before, in the same transaction: what it raises is raised here; None: nothing.
            is_stored: Whether the response itself is stored, too.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """

        async def add(connection: AsyncConnection) -> None:
            if response.conversation is not None and items:
                assert self._conversations is not None
                await self._conversations.answered(connection, response.conversation, tenant, items)

        if not is_stored:
            assert first is None
            await self._database.run(add)
            return
        size = sum(map(len, (response.response, response.input, response.output, response.rhythm)))
        row = {
            "id": response.id,
            "previous": response.previous,
            "conversation": response.conversation,
            "depth": response.history.links,
            "history_bytes": response.history.bytes,
            "response": response.response,
            "input": response.input,
            "output": response.output,
            "rhythm": response.rhythm,
        }
        await self._insert(row, tenant, size, add, first)

    async def find(self, ids: Collection[str], tenant: str) -> dict[str, KeptResponse]:
        """Those of some responses that are stored, by id.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        rows = await self._all(select(RESPONSES).where(self._are(ids, tenant)))
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
        if not await self._delete(id, tenant):
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
        rows = await self._all(query.where(self._are([id], tenant)))
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


def _no_previous(why: str) -> PreviousResponseNotFound:
    message = f"previous_response_id: {why} for this key. Send the whole conversation in input."
    return PreviousResponseNotFound(message, param="previous_response_id")
