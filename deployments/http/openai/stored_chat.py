"""What can be asked of stored chat completions: `GET /v1/chat/completions`, and `.../{id}` and `.../{id}/messages`."""

import json
import re
from collections.abc import Sequence

from aiohttp import web

from deployments.database.kept_chat_completions import (
    ChatCompletionNotFound,
    KeptChatCompletion,
    KeptChatCompletions,
    is_id,
)
from deployments.http.openai.chat_body import NoteBody
from deployments.http.openai_common.pages import page_asked, page_text
from deployments.http.server.bodies import BodyRoom
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.validation import parse_body
from engines.errors import InvalidRequest, Unsupported

_MOST_PAIRS = 16
"""Of metadata that a list is asked for by: as many as there can be."""
_PAIR = re.compile(r"metadata\[(.*)\]", re.DOTALL)


async def list_stored(exchange: Exchange) -> web.StreamResponse:
    """The completions of whoever asks, page by page.

    A page ends where it would be larger than a body may be; what follows it is on the next.

    Raises:
        PenstockError: The request is wrong, or they cannot be read.
    """
    page = page_asked(exchange, "asc")
    if page.after is not None and not is_id(page.after):
        raise InvalidRequest(f"after: {page.after[:64]!r} is no id of a chat completion.", param="after")
    metadata = _pairs(exchange)
    kept, tenant = _kept(exchange), exchange.tenant.name
    model = exchange.request.query.get("model")
    is_descending = page.order == "desc"
    there = await kept.list(tenant, model, metadata, page.after, page.limit + 1, is_descending=is_descending)
    ids = _fitting(there[: page.limit], exchange.services.settings.max_body_bytes)
    with exchange.services.bodies.room() as room:
        room.grow_to(sum(size for _, size in there[: len(ids)]))
        found = await kept.find(ids, tenant)
        # One may have been deleted meanwhile.
        left = [id for id in ids if id in found]
        return json_response(page_text([_written(found[id]) for id in left], left, has_more=len(ids) < len(there)))


async def retrieve(exchange: Exchange) -> web.StreamResponse:
    """A completion.

    Raises:
        ChatCompletionNotFound: It is not stored.
        PenstockError: It cannot be read.
    """
    with exchange.services.bodies.room() as room:
        return json_response(_written(await _found(exchange, room)))


async def note(exchange: Exchange) -> web.StreamResponse:
    """Notes other metadata on a completion.

    Raises:
        ChatCompletionNotFound: It is not stored.
        PenstockError: The request is wrong, or that cannot be done.
    """
    metadata = parse_body(NoteBody, await exchange.body()).metadata or {}
    with exchange.services.bodies.room() as room:
        found = await _found(exchange, room)
        await _kept(exchange).note(found.id, metadata, exchange.tenant.name)
        return json_response(_written(KeptChatCompletion(found.id, found.completion, metadata)))


async def delete(exchange: Exchange) -> web.StreamResponse:
    """Removes a completion.

    Raises:
        ChatCompletionNotFound: It is not stored.
        PenstockError: It cannot be removed.
    """
    (id,) = exchange.ids
    await _kept(exchange).delete(id, exchange.tenant.name)
    return json_response(json.dumps({"object": "chat.completion.deleted", "id": id, "deleted": True}))


async def messages(exchange: Exchange) -> web.StreamResponse:
    """The messages that a completion answers, page by page.

    Raises:
        ChatCompletionNotFound: It is not stored.
        PenstockError: The request is wrong, or they cannot be read.
    """
    page = page_asked(exchange, "asc")
    (id,) = exchange.ids
    kept, tenant = _kept(exchange), exchange.tenant.name
    with exchange.services.bodies.room() as room:
        room.grow_to(await kept.bytes([id], tenant))
        said = await kept.messages(id, tenant)
        places, has_more = page.of([f"{id}-{place}" for place in range(len(said))], "chat completion")
        ids = [f"{id}-{place}" for place in places]
        # They may be megabytes, and are no more than passed on.
        texts = [f'{said[place][:-1]}, "id": "{named}"}}' for place, named in zip(places, ids, strict=True)]
        return json_response(page_text(texts, ids, has_more=has_more))


def _kept(exchange: Exchange) -> KeptChatCompletions:
    """Where completions are stored.

    Raises:
        Unsupported: Nowhere.
    """
    storage = exchange.services.storage
    if storage is None:
        raise Unsupported("This server stores no chat completions. It does with `database` in the fleet file.")
    return storage.chat_completions


async def _found(exchange: Exchange, room: BodyRoom) -> KeptChatCompletion:
    """The completion that the path names; what it takes to read counts as a body does."""
    (id,) = exchange.ids
    kept, tenant = _kept(exchange), exchange.tenant.name
    room.grow_to(await kept.bytes([id], tenant))
    found = (await kept.find([id], tenant)).get(id)
    if found is None:
        raise ChatCompletionNotFound(id)
    return found


def _written(kept: KeptChatCompletion) -> str:
    return f'{kept.completion[:-1]}, "metadata": {json.dumps(kept.metadata)}}}'


def _fitting(there: Sequence[tuple[str, int]], most_bytes: int) -> Sequence[str]:
    """The first of some completions, as many as so many bytes hold, and one at least."""
    ids: list[str] = []
    for id, size in there:
        most_bytes -= size
        if ids and most_bytes < 0:
            break
        ids.append(id)
    return ids


def _pairs(exchange: Exchange) -> dict[str, str]:
    """The metadata that a list is asked for by: `metadata[key]=value`."""
    found = {match[1]: value for name, value in exchange.request.query.items() if (match := _PAIR.fullmatch(name))}
    if len(found) > _MOST_PAIRS:
        raise InvalidRequest(f"metadata: there are {len(found)} pairs, and at most {_MOST_PAIRS}.", param="metadata")
    return found
