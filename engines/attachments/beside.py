"""Attachments beside their messages, and back in them.

The attachments of a request belong to the parts of its messages that hold data, in their order; while they travel
beside the messages, those parts are empty.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from engines.attachments import base64_text
from engines.attachments.attachment import Attachment
from engines.call_requests import TokenizeRequest
from engines.contract import Capabilities
from engines.errors import Unsupported
from engines.messages import AudioPart, Kind, MediaPart, Message, media_parts
from engines.requests import GenerateRequest

Request = TypeVar("Request", GenerateRequest, TokenizeRequest)

CAPABILITIES: Mapping[Kind, str] = {"image": "vision", "audio": "audio", "document": "documents"}
"""The field of `Capabilities` that a model needs for each kind."""
_READS: Mapping[Kind, str] = {"image": "see images", "audio": "hear audio", "document": "read documents"}


def check_kinds(messages: Sequence[Message] | None, capabilities: Capabilities) -> None:
    """Lets a conversation pass whose attachments the model takes.

    Raises:
        Unsupported: There is one that it does not take; names its part.
    """
    for param, part in media_parts(messages or ()):
        if not getattr(capabilities, CAPABILITIES[part.kind]):
            instead = " Send its text instead." if part.kind == "document" else ""
            raise Unsupported(
                f"This model does not {_READS[part.kind]}: it takes no parts of type {part.type}.{instead}", param=param
            )


def without_data(messages: Sequence[Message]) -> list[Message]:
    """The messages with the data taken out of their parts."""
    return _refilled(messages, iter(lambda: "", None))


async def with_data(messages: Sequence[Message], attachments: Sequence[Attachment]) -> list[Message]:
    """The messages with their attachments in their parts again, as a caller writes them.

    Args:
        messages: As `without_data` returns them; or with the data still in place, and then nothing is done.
        attachments: Those of the request; empty where the data is in place.
    """
    if not attachments:
        return list(messages)
    parts = [part for _, part in media_parts(messages)]
    written = [await _written(part, attached) for part, attached in zip(parts, attachments, strict=True)]
    return _refilled(messages, iter(written))


async def with_data_inside(request: Request) -> Request:
    """The request with its attachments in its messages again: for engines that write them into a body of JSON."""
    if not request.attachments or request.messages is None:
        return request
    messages = await with_data(request.messages, request.attachments)
    return request.model_copy(update={"messages": messages, "attachments": []})


async def _written(part: MediaPart, attachment: Attachment) -> str:
    if isinstance(part, AudioPart):
        return await base64_text.encode(attachment.data)
    return await base64_text.data_url(attachment.media_type, attachment.data)


def _refilled(messages: Sequence[Message], data: Iterator[str]) -> list[Message]:
    refilled = []
    for message in messages:
        if isinstance(message.content, list) and any(isinstance(part, MediaPart) for part in message.content):
            content = [part.holding(next(data)) if isinstance(part, MediaPart) else part for part in message.content]
            message = message.model_copy(update={"content": content})
        refilled.append(message)
    return refilled
