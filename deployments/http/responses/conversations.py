"""`/v1/conversations`: conversations by name, and their items."""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from deployments.database.kept_conversations import KeptConversation, KeptItem
from deployments.http.openai_common.metadata import Metadata
from deployments.http.openai_common.pages import page_asked, page_text
from deployments.http.responses.items import ItemReference, Items, SaidItem, written
from deployments.http.responses.response_body import refuse_hosted_items
from deployments.http.responses.said import stored_conversations
from deployments.http.server.body_parts import Strict
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.validation import parse_body
from engines.errors import InvalidRequest
from engines.turns import Turns

_MOST_NEW = 20
"""Items that one request adds."""
_KeptItems = Annotated[Items, Field(max_length=_MOST_NEW)]


class CreateBody(Strict):
    """A conversation to begin."""

    items: _KeptItems | None = None
    metadata: Metadata | None = None


class UpdateBody(Strict):
    """What is noted of a conversation from now on."""

    metadata: Metadata


class AddBody(Strict):
    """Items to add to a conversation."""

    items: Annotated[_KeptItems, Field(min_length=1)]


async def create(exchange: Exchange) -> web.StreamResponse:
    """Begins a conversation.

    Raises:
        InvalidRequest: The body is wrong.
        PenstockError: It cannot be stored.
    """
    kept = stored_conversations(exchange, None)
    data = await exchange.body()
    refuse_hosted_items(data, "items")
    body = parse_body(CreateBody, data)
    items = await _new(body.items or [])
    return json_response(_text(await kept.create(exchange.tenant.name, body.metadata or {}, items)))


async def retrieve(exchange: Exchange) -> web.StreamResponse:
    """A conversation.

    Raises:
        ConversationNotFound: It is not stored.
        PenstockError: It cannot be read.
    """
    (id,) = exchange.ids
    return json_response(_text(await stored_conversations(exchange, None).find(id, exchange.tenant.name)))


async def update(exchange: Exchange) -> web.StreamResponse:
    """Notes something else of a conversation.

    Raises:
        ConversationNotFound: It is not stored.
        InvalidRequest: The body is wrong.
        PenstockError: It cannot be written.
    """
    (id,) = exchange.ids
    kept = stored_conversations(exchange, None)
    body = parse_body(UpdateBody, await exchange.body())
    return json_response(_text(await kept.update(id, exchange.tenant.name, body.metadata)))


async def delete(exchange: Exchange) -> web.StreamResponse:
    """Removes a conversation and its items; responses in it stay.

    Raises:
        ConversationNotFound: It is not stored.
        PenstockError: It cannot be removed.
    """
    (id,) = exchange.ids
    await stored_conversations(exchange, None).delete(id, exchange.tenant.name)
    return json_response(json.dumps({"id": id, "object": "conversation.deleted", "deleted": True}))


async def add_items(exchange: Exchange) -> web.StreamResponse:
    """Adds items to a conversation, and lists them.

    Raises:
        ConversationNotFound: It is not stored.
        ConversationFull: It has as much as it may.
        InvalidRequest: The body is wrong.
        PenstockError: They cannot be stored.
    """
    (id,) = exchange.ids
    kept = stored_conversations(exchange, None)
    data = await exchange.body()
    refuse_hosted_items(data, "items")
    items = await _new(parse_body(AddBody, data).items)
    await kept.add(id, exchange.tenant.name, items)
    return json_response(_page(items, has_more=False))


async def list_items(exchange: Exchange) -> web.StreamResponse:
    """The items of a conversation, page by page.

    Raises:
        ConversationNotFound: It is not stored.
        InvalidRequest: The query is wrong.
        PenstockError: They cannot be read.
    """
    (id,) = exchange.ids
    page = page_asked(exchange, "desc")
    kept, tenant = stored_conversations(exchange, None), exchange.tenant.name
    with exchange.services.bodies.room() as room:
        room.grow_to((await kept.find(id, tenant)).bytes)
        found = await kept.items(id, tenant, after=page.after, limit=page.limit + 1, order=page.order)
        return json_response(_page(found[: page.limit], has_more=len(found) > page.limit))


async def retrieve_item(exchange: Exchange) -> web.StreamResponse:
    """An item of a conversation.

    Raises:
        ConversationNotFound: The conversation is not stored.
        ConversationItemNotFound: It has none of that id.
        PenstockError: It cannot be read.
    """
    id, item = exchange.ids
    kept, tenant = stored_conversations(exchange, None), exchange.tenant.name
    with exchange.services.bodies.room() as room:
        room.grow_to((await kept.find(id, tenant)).bytes)
        return json_response(await kept.item(id, tenant, item))


async def delete_item(exchange: Exchange) -> web.StreamResponse:
    """Takes an item out of a conversation, and answers with the conversation.

    Raises:
        ConversationNotFound: The conversation is not stored.
        ConversationItemNotFound: It has none of that id.
        PenstockError: It cannot be removed.
    """
    id, item = exchange.ids
    return json_response(_text(await stored_conversations(exchange, None).remove(id, exchange.tenant.name, item)))


async def _new(items: Sequence[SaidItem | ItemReference]) -> Sequence[KeptItem]:
    """Items as a conversation has them: their ids are the server's, whatever their client calls them."""
    made_of, turns = uuid.uuid4().hex, Turns()
    made: list[KeptItem] = []
    for index, item in enumerate(items):
        if isinstance(item, ItemReference):
            where = f"items[{index}]"
            raise InvalidRequest(f"{where}: it refers to another item. Send the item itself.", param=where)
        item_made: Mapping[str, Any] = written(item.model_copy(update={"id": None}), f"{made_of}_{index}")
        made.append((item_made["id"], json.dumps(item_made)))
        await turns.pause()
    return made


def _page(items: Sequence[KeptItem], *, has_more: bool) -> str:
    return page_text([text for _, text in items], [id for id, _ in items], has_more=has_more)


def _text(conversation: KeptConversation) -> str:
    return json.dumps(
        {
            "id": conversation.id,
            "object": "conversation",
            "created_at": conversation.created_s,
            "metadata": conversation.metadata,
        }
    )
