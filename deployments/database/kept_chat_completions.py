"""Chat completions that can be read again: listed, found by their model and metadata, with the messages before them."""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database.database import Database
from deployments.database.tables import CHAT_COMPLETION_LABELS as LABELS
from deployments.database.tables import CHAT_COMPLETION_TENANTS, CHAT_COMPLETIONS
from deployments.database.tenant_rows import TenantRows
from engines.errors import PenstockError

_ID = re.compile(r"chatcmpl-[0-9a-f]{32}")


class ChatCompletionNotFound(PenstockError):
    """No chat completion of that id is stored for whoever asks."""

    status = 404
    kind = "invalid_request_error"
    code = "chat_completion_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"No chat completion {id[:64]!r} is stored: it was deleted or is too old, was not stored, or is not this "
            "key's."
        )


@dataclass(frozen=True, slots=True)
class KeptChatCompletion:
    """A stored chat completion.

    Attributes:
        id: Its id, of `new_id`.
        completion: As clients read it, without its metadata, as JSON text.
        metadata: What its client has noted on it.
    """

    id: str
    completion: str
    metadata: Mapping[str, str]


def new_id() -> str:
    """An id for a completion: one that is made later is greater, up to what the clocks of replicas differ by."""
    return f"chatcmpl-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def is_id(text: str) -> bool:
    """Whether a text is an id of a completion that may be stored."""
    return _ID.fullmatch(text) is not None


class KeptChatCompletions(TenantRows):
    """The chat completions in a database.

    Args:
        database: Where they are.
        keep_s: How long each is kept.
        tenant_bytes: What of one tenant is kept; past it, those are removed that would expire first.
        clock: Unix time in seconds.
    """

    def __init__(
        self, database: Database, keep_s: float, tenant_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(database, CHAT_COMPLETIONS, CHAT_COMPLETION_TENANTS, is_id, keep_s, tenant_bytes, clock)

    async def keep(self, completion: KeptChatCompletion, model: str, messages: Sequence[str], tenant: str) -> None:
        """Stores a completion.

        Args:
            completion: The completion.
            model: The name of its model.
            messages: Those that it answers, each as JSON text in one line.
            tenant: Whose it is.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        metadata, said = json.dumps(completion.metadata), "\n".join(messages)
        listed = len(completion.completion) + len(metadata)
        row = {
            "id": completion.id,
            "model": model,
            "completion": completion.completion,
            "metadata": metadata,
            "messages": said,
            "listed_bytes": listed,
        }

        async def label(connection: AsyncConnection) -> None:
            await _label(connection, completion.id, _labels(tenant, model, completion.metadata))

        await self._insert(row, tenant, listed + len(said), label)

    async def find(self, ids: Collection[str], tenant: str) -> dict[str, KeptChatCompletion]:
        """Those of some completions that are stored, by id.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        columns = CHAT_COMPLETIONS.c
        query = select(columns.id, columns.completion, columns.metadata).where(self._are(ids, tenant))
        return {
            row.id: KeptChatCompletion(row.id, row.completion, json.loads(row.metadata))
            for row in await self._all(query)
        }

    async def messages(self, id: str, tenant: str) -> Sequence[str]:
        """The messages that a completion answers, each as JSON text.

        Raises:
            ChatCompletionNotFound: It is not stored.
            DatabaseUnavailable: The database does not answer.
        """
        rows = await self._all(select(CHAT_COMPLETIONS.c.messages).where(self._are([id], tenant)))
        if not rows:
            raise ChatCompletionNotFound(id)
        said: str = rows[0].messages
        return said.split("\n")

    async def list(
        self,
        tenant: str,
        model: str | None,
        metadata: Mapping[str, str],
        after: str | None,
        most: int,
        *,
        is_descending: bool,
    ) -> Sequence[tuple[str, int]]:
        """The ids of a tenant's completions, each with its bytes but for those of its messages.

        Args:
            tenant: Whose.
            model: Of which model; None: any.
            metadata: What must be noted on them.
            after: An id before those that are wanted, stored or not.
            most: So many of them.
            is_descending: Whether the last one that was made comes first.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        columns = CHAT_COMPLETIONS.c
        key: ColumnElement[str] = columns.id
        # A database is not to go by the order in which they expire, nor, where there is a label, by that of all.
        is_there = columns.expires_at + 0.0 > self._clock()
        query = select(columns.id, columns.listed_bytes)
        labels = _labels(tenant, model, metadata)
        if labels:
            # What has a label stands in its index in the order of ids, so that a page is read and no more.
            key = LABELS.c.completion
            query = query.join(LABELS, key == columns.id).where(LABELS.c.label == labels[0])
            query = query.where(is_there, func.coalesce(columns.tenant, "") == tenant)
        else:
            query = query.where(is_there, columns.tenant == tenant)
        for label in labels[1:]:
            other = LABELS.alias()
            query = query.where(exists().where(other.c.completion == key, other.c.label == label))
        if after is not None:
            query = query.where(key < after if is_descending else key > after)
        query = query.order_by(key.desc() if is_descending else key.asc()).limit(most)
        return [(row.id, row.listed_bytes) for row in await self._all(query)]

    async def note(self, id: str, metadata: Mapping[str, str], tenant: str) -> None:
        """Notes other metadata on a completion, in place of what there was.

        Raises:
            ChatCompletionNotFound: It is not stored.
            DatabaseUnavailable: The database does not answer.
        """
        text = json.dumps(metadata)

        async def work(connection: AsyncConnection) -> bool:
            columns = CHAT_COMPLETIONS.c
            query = select(columns.model, columns.metadata, columns.listed_bytes, columns.bytes)
            query = query.where(self._are([id], tenant)).with_for_update()
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return False
            more = len(text) - len(row.metadata)
            sizes = {"listed_bytes": row.listed_bytes + more, "bytes": row.bytes + more}
            await connection.execute(update(CHAT_COMPLETIONS).where(columns.id == id).values(metadata=text, **sizes))
            await connection.execute(delete(LABELS).where(LABELS.c.completion == id))
            await _label(connection, id, _labels(tenant, row.model, metadata))
            await self._count(connection, tenant, more)
            return True

        if not await self._database.run(work):
            raise ChatCompletionNotFound(id)

    async def delete(self, id: str, tenant: str) -> None:
        """Removes a completion.

        Raises:
            ChatCompletionNotFound: It is not stored.
            DatabaseUnavailable: The database does not answer.
        """
        if not await self._delete(id, tenant):
            raise ChatCompletionNotFound(id)


def _labels(tenant: str, model: str | None, metadata: Mapping[str, str]) -> Sequence[str]:
    """Digests of what a completion can be found by; a tenant's own."""
    pairs: list[tuple[str, ...]] = [(tenant, key, value) for key, value in metadata.items()]
    if model is not None:
        pairs.append((tenant, model))
    return [hashlib.sha256(json.dumps(pair).encode()).hexdigest() for pair in pairs]


async def _label(connection: AsyncConnection, id: str, labels: Sequence[str]) -> None:
    if labels:
        await connection.execute(insert(LABELS), [{"completion": id, "label": label} for label in labels])
