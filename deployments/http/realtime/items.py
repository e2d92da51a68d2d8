"""Items of a realtime session, and the messages of the conversation that they are."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field

from deployments.http.server.json_guard import check_texts
from engines.errors import Unsupported
from engines.messages import FunctionCall, Message, ToolCall

ItemId = Annotated[str, Field(min_length=1, max_length=112)]


class Body(BaseModel):
    """Base of what clients send: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TextContent(Body):
    """A piece of text; `input_text` of users and systems, `output_text` of the assistant."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class SoundContent(Body):
    """Sound or pictures, which are refused by name."""

    model_config = ConfigDict(extra="allow")

    type: Literal["input_audio", "output_audio", "audio", "input_image"]


class _Item(Body):
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class MessageItem(_Item):
    """A message."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Annotated[TextContent | SoundContent, Discriminator("type")]], Field(fail_fast=True)]


class FunctionCallItem(_Item):
    """A call of a tool; `arguments` is JSON as text."""

    type: Literal["function_call"]
    name: str
    arguments: str
    call_id: str | None = None


class FunctionCallOutputItem(_Item):
    """What a tool has answered."""

    type: Literal["function_call_output"]
    call_id: str
    output: str


class ItemReference(Body):
    """An item of the session, by its id; in the input of a response alone."""

    type: Literal["item_reference"]
    id: ItemId


RealtimeItem = Annotated[MessageItem | FunctionCallItem | FunctionCallOutputItem, Discriminator("type")]
InputItem = Annotated[MessageItem | FunctionCallItem | FunctionCallOutputItem | ItemReference, Discriminator("type")]


def message_of(item: MessageItem | FunctionCallItem | FunctionCallOutputItem, id: str, where: str) -> Message:
    """What an item says to a model.

    Args:
        item: As the client wrote it.
        id: Its id.
        where: How the client calls the place that it is in.

    Raises:
        Unsupported: It holds sound or a picture.
        InvalidRequest: The arguments of a call cost more to parse than an event may.
    """
    match item:
        case MessageItem():
            texts = []
            for place, content in enumerate(item.content):
                if isinstance(content, SoundContent):
                    message = f"{content.type} is not supported: this API takes and gives text."
                    raise Unsupported(message, param=f"{where}.content[{place}].type")
                texts.append(content.text)
            return Message(role=item.role, content="".join(texts))
        case FunctionCallItem():
            # The guard of the event has seen one string there, whatever it holds.
            check_texts([(f"{where}.arguments", item.arguments)])
            function = FunctionCall(name=item.name, arguments=item.arguments)
            return Message(role="assistant", tool_calls=[ToolCall(id=item.call_id or id, function=function)])
        case FunctionCallOutputItem():
            return Message(role="tool", content=item.output, tool_call_id=item.call_id)


def written(id: str, message: Message, status: str = "completed") -> dict[str, Any]:
    """An item as clients read it."""
    head: dict[str, Any] = {"id": id, "object": "realtime.item", "status": status}
    if message.tool_calls and message.content is None:
        [call] = message.tool_calls
        name, arguments = call.function.name, call.function.arguments
        return head | {"type": "function_call", "name": name, "arguments": arguments, "call_id": call.id}
    if message.role == "tool":
        return head | {"type": "function_call_output", "call_id": message.tool_call_id, "output": message.content}
    type = "output_text" if message.role == "assistant" else "input_text"
    content = [{"type": type, "text": message.content}] if message.content else []
    return head | {"type": "message", "role": message.role, "content": content}
