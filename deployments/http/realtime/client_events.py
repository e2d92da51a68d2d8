"""What clients send: one JSON object each, told apart by `type`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from deployments.http.realtime.items import Body, ItemId, RealtimeItem
from deployments.http.realtime.session_body import ResponseBody, SessionFields
from deployments.http.server.validation import parse_body
from engines.errors import InvalidRequest, Unsupported
from engines.nearest import did_you_mean


class ClientEvent(Body):
    """Base of all of them."""

    name: ClassVar[str]

    type: str
    event_id: Annotated[str, Field(max_length=512)] | None = None


class SessionUpdate(ClientEvent):
    """Changes how responses are made, from the next one on."""

    name = "session.update"
    session: SessionFields


class ItemCreate(ClientEvent):
    """Adds an item to the history."""

    name = "conversation.item.create"
    item: RealtimeItem
    previous_item_id: ItemId | None = None


class ItemDelete(ClientEvent):
    """Takes one out."""

    name = "conversation.item.delete"
    item_id: ItemId


class ItemRetrieve(ClientEvent):
    """Asks for one."""

    name = "conversation.item.retrieve"
    item_id: ItemId


class TextAppend(ClientEvent):
    """More text of a message of the user's that is still being written; ours, after the audio buffer's."""

    name = "input_text_buffer.append"
    text: str


class TextCommit(ClientEvent):
    """That message is complete, and becomes an item."""

    name = "input_text_buffer.commit"
    previous_item_id: Literal[None] = None


class TextClear(ClientEvent):
    """It is thrown away."""

    name = "input_text_buffer.clear"


class ResponseCreate(ClientEvent):
    """Asks for an answer."""

    name = "response.create"
    response: ResponseBody = ResponseBody()


class ResponseCancel(ClientEvent):
    """Ends one early."""

    name = "response.cancel"
    response_id: ItemId | None = None


_KINDS: dict[str, type[ClientEvent]] = {
    kind.name: kind
    for kind in (
        SessionUpdate,
        ItemCreate,
        ItemDelete,
        ItemRetrieve,
        TextAppend,
        TextCommit,
        TextClear,
        ResponseCreate,
        ResponseCancel,
    )
}
_OF_SOUND = ("input_audio_buffer.", "output_audio_buffer.", "conversation.item.truncate", "transcription_session.")


def parse_event(data: Mapping[str, Any]) -> ClientEvent:
    """The event of a JSON object.

    Raises:
        InvalidRequest: It is none that there is, or a field is wrong.
        Unsupported: It is about sound.
    """
    type = data.get("type")
    if not isinstance(type, str):
        raise InvalidRequest("type: an event has one, and it is a text.", param="type")
    if type.startswith(_OF_SOUND):
        raise Unsupported(f"{type[:80]} is about audio: this API takes and gives text.", param="type")
    kind = _KINDS.get(type)
    if kind is None:
        raise InvalidRequest(f"type: there is no event {type[:80]!r}.{did_you_mean(type[:80], _KINDS)}", param="type")
    return parse_body(kind, data)
