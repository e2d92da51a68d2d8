"""Bedrock's streams as the server-sent events of the API that it carries."""

import base64
import binascii
import json

from engines.remote.bedrock_failures import bedrock_error
from engines.remote.event_stream import EventStreamDecoder, EventStreamMessage
from engines.remote.json_fields import as_dict, as_str
from engines.remote.sse import MalformedStream, ServerSentEvent


class BedrockStreamParser:
    """Takes bytes, gives the events that are wrapped in them; an exception becomes an event that is an error."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = EventStreamDecoder()

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete.

        Raises:
            MalformedStream: The bytes are no event stream, or one of another API.
        """
        events = map(_event, self._decoder.feed(data))
        return [event for event in events if event is not None]


def _event(message: EventStreamMessage) -> ServerSentEvent | None:
    headers = message.headers
    match headers.get(":message-type"):
        case "event":
            if headers.get(":event-type") != "chunk":
                return None  # Types that are yet to be thought of.
            return ServerSentEvent("message", _wrapped(message.payload))
        case "exception":
            return _error(headers.get(":exception-type", ""), message.payload)
        case "error":
            text = headers.get(":error-message", "")
            return _error(headers.get(":error-code", ""), json.dumps({"message": text}).encode())
    raise MalformedStream("a message is neither an event nor an exception")


def _wrapped(payload: bytes) -> str:
    try:
        return base64.b64decode(as_str(as_dict(json.loads(payload)).get("bytes")), validate=True).decode()
    except (binascii.Error, ValueError, RecursionError):
        raise MalformedStream("an event is not JSON with bytes in base64") from None


def _error(type: str, payload: bytes) -> ServerSentEvent:
    """The JSON of an error in Anthropic's shape, with the status that it is read by."""
    status, body = bedrock_error(500, type, payload)
    error = {"type": type, "code": status, "message": body.message}
    return ServerSentEvent("error", json.dumps({"type": "error", "error": error}))
