"""What was said in a conversation: what is stored of it, and what a request adds.

What is stored and small to ask for may be large to read: it counts as a request's body does, and is bounded as one is.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from deployments.database.kept_conversations import MOST_ITEMS, ConversationNotFound, KeptConversations
from deployments.database.kept_responses import KeptResponses, PreviousResponseNotFound, Size
from deployments.database.storage import Storage
from deployments.http.responses.conversation import Conversation, conversation_of
from deployments.http.responses.items import ItemReference, Items, MessageItem, ReasoningItem, SaidItem
from deployments.http.responses.reasoning import Sealer, thoughts_of
from deployments.http.responses.response_body import InputBody
from deployments.http.server.bodies import BodyRoom
from deployments.http.server.exchange import Exchange
from deployments.http.server.json_guard import MAX_OBJECTS
from deployments.http.server.names import Location
from engines.errors import ConversationFull, InvalidRequest, Unsupported
from engines.garbage import CollectorPaused
from engines.turns import Turns

_ITEMS: TypeAdapter[list[Any]] = TypeAdapter(Items)
_STORED_ID = re.compile(r"[a-z]{2,3}_([0-9a-f]{32})_(?:in)?[0-9]{1,5}")
_MOST_REFERENCED = 100
"""Responses whose items one input refers to."""

Placed = tuple[SaidItem, Location]
"""An item, and where the caller has it."""


@dataclass(slots=True)
class Said:
    """A conversation.

    Attributes:
        history: What is stored of it.
        input: What is added to it.
        previous: How much is stored of it; None: nothing.
    """

    history: list[Placed] = field(default_factory=list)
    input: list[Placed] = field(default_factory=list)
    previous: Size | None = None

    @property
    def items(self) -> Sequence[Placed]:
        """All of it."""
        return [*self.history, *self.input]


def stored_responses(exchange: Exchange, param: str | None) -> KeptResponses:
    """Where responses are stored.

    Args:
        exchange: What asks for one.
        param: The field that does; None: the path.

    Raises:
        Unsupported: Nowhere.
    """
    return _storage(exchange, param, "responses").responses


def stored_conversations(exchange: Exchange, param: str | None) -> KeptConversations:
    """Where conversations are stored; as `stored_responses`."""
    return _storage(exchange, param, "conversations").conversations


def _storage(exchange: Exchange, param: str | None, what: str) -> Storage:
    storage = exchange.services.storage
    if storage is None:
        where = "" if param is None else f"{param}: "
        message = f"{where}this server stores no {what}. It does with `database` in the fleet file."
        raise Unsupported(message, param=param)
    return storage


async def conversation_in(
    exchange: Exchange, body: InputBody, sealer: Sealer, room: BodyRoom
) -> tuple[Said, Conversation]:
    """The conversation of a request, as items and as what an engine is given of them.

    Args:
        exchange: The request.
        body: Its body.
        sealer: Opens what is encrypted.
        room: What it takes of the budget for bodies.

    Raises:
        PenstockError: What is stored of it cannot be had, or an item is wrong or stands where it does not belong.
    """
    said = await _said_in(exchange, body, room)
    thoughts = await thoughts_of(said.items, sealer)
    await exchange.turn()
    conversation = conversation_of(body.instructions, said.items, thoughts)
    await exchange.turn()
    return said, conversation


async def _said_in(exchange: Exchange, body: InputBody, room: BodyRoom) -> Said:
    """The conversation of a request.

    Args:
        exchange: The request.
        body: Its body.
        room: What it takes of the budget for bodies.

    Raises:
        Unsupported: It needs what is stored, and nothing is.
        PreviousResponseNotFound: The response to go on from, or one before it, is not there.
        ConversationNotFound: The conversation is not there.
        ConversationFull: There is more of it than may be.
        InvalidRequest: That has not ended; or it refers to an item that is not there.
        DatabaseUnavailable: The database does not answer.
    """
    said = Said()
    if body.previous_response_id is not None:
        await _add_history(said, exchange, body.previous_response_id, room)
    if body.conversation_id is not None:
        await _add_conversation(said, exchange, body.conversation_id, room)
    if isinstance(body.input, str):
        said.input.append((MessageItem(role="user", content=body.input), ("input",)))
    else:
        await _add_input(said, exchange, body.input or [], room)
    if len(said.history) + len(said.input) > MAX_OBJECTS:
        param = "previous_response_id" if body.conversation_id is None else "conversation"
        message = f"{param}: the conversation has more than {MAX_OBJECTS} items. Begin a new one."
        raise ConversationFull(message, param=param)
    return said


async def _add_history(said: Said, exchange: Exchange, id: str, room: BodyRoom) -> None:
    storage, tenant = _storage(exchange, "previous_response_id", "responses"), exchange.tenant.name
    kept = storage.responses
    try:
        said.previous = await kept.size(id, tenant, exchange.services.settings.max_body_bytes)
    except PreviousResponseNotFound:
        if await storage.background.find(id, tenant) is None:
            raise
        message = f"previous_response_id: the response {id!r} has not ended: it is made in the background."
        raise InvalidRequest(message, param="previous_response_id") from None
    room.grow_to(room.bytes + said.previous.bytes)
    turns = Turns()
    for given, answered in await kept.history(id, tenant):
        for items in (json.loads(given), json.loads(answered)):
            said.history += [(_for_a_model(item), ("previous_response_id",)) for item in _parsed(items)]
            await turns.pause()


async def _add_conversation(said: Said, exchange: Exchange, id: str, room: BodyRoom) -> None:
    kept, tenant = stored_conversations(exchange, "conversation"), exchange.tenant.name
    most = exchange.services.settings.max_body_bytes
    try:
        size = (await kept.find(id, tenant)).bytes
        if size > most:
            message = f"conversation: it has {size} bytes, of at most {most}. Begin a new one."
            raise ConversationFull(message, param="conversation")
        room.grow_to(room.bytes + size)
        items = await kept.items(id, tenant, after=None, limit=MOST_ITEMS, order="asc")
    except ConversationNotFound:
        raise ConversationNotFound(id, "conversation") from None
    turns = Turns()
    for _, text in items:
        said.history += [(_for_a_model(item), ("conversation",)) for item in _parsed([json.loads(text)])]
        await turns.pause()


async def _add_input(said: Said, exchange: Exchange, items: Sequence[Any], room: BodyRoom) -> None:
    referred = {index: item.id for index, item in enumerate(items) if isinstance(item, ItemReference)}
    found = await _referred(exchange, referred, room) if referred else {}
    left = exchange.services.settings.max_body_bytes
    for index, item in enumerate(items):
        place: Location = ("input", index)
        if not isinstance(item, ItemReference):
            said.input.append((item, place))
            continue
        if item.id not in found:
            message = f"input[{index}].id: no item {item.id[:64]!r} is stored for this key. Send the item itself."
            raise InvalidRequest(message, param=f"input[{index}].id")
        stored, size = found[item.id]
        left -= size
        if left < 0:
            raise ConversationFull(
                f"input[{index}]: the items that are referred to are too large.", param=f"input[{index}]"
            )
        said.input.append((stored, place))


async def _referred(exchange: Exchange, referred: dict[int, str], room: BodyRoom) -> dict[str, tuple[SaidItem, int]]:
    """Items that are stored, by their ids, each with its size: their ids say in which responses they are."""
    first = f"input[{next(iter(referred))}]"
    kept, tenant = stored_responses(exchange, first), exchange.tenant.name
    ids = {f"resp_{known[1]}" for id in referred.values() if (known := _STORED_ID.fullmatch(id))}
    if len(ids) > _MOST_REFERENCED:
        raise InvalidRequest(f"{first}: items of at most {_MOST_REFERENCED} responses are referred to.", param=first)
    size = await kept.bytes(ids, tenant)
    if size > exchange.services.settings.max_body_bytes:
        raise ConversationFull(f"{first}: the responses that are referred to are too large together.", param=first)
    room.grow_to(room.bytes + size)
    wanted, found, turns = set(referred.values()), {}, Turns()
    for response in (await kept.find(ids, tenant)).values():
        items = [*json.loads(response.input), *json.loads(response.output)]
        for raw in items:
            if raw["id"] in wanted:
                (item,) = _parsed([raw])
                found[raw["id"]] = _for_a_model(item), len(json.dumps(raw))
                await turns.pause()
    return found


def _parsed(items: Sequence[Any]) -> Sequence[SaidItem]:
    with CollectorPaused():
        return _ITEMS.validate_python(items)


def _for_a_model(item: SaidItem) -> SaidItem:
    """A stored item. What was encrypted need not be opened where it stands beside it: secrets may have changed."""
    if isinstance(item, ReasoningItem) and item.content and item.encrypted_content is not None:
        return item.model_copy(update={"encrypted_content": None})
    return item
