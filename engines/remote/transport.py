"""What differs between APIs below their events: how requests are signed, streams framed, and refusals written."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

from engines.errors import PenstockError
from engines.remote.failures import Asked, response_error
from engines.remote.sse import ServerSentEvent, SSEParser


class StreamParser(Protocol):
    """Takes the bytes of one stream, gives its events."""

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete.

        Raises:
            MalformedStream: The bytes are no stream of this framing.
        """


class Transport:
    """What most APIs have: server-sent events, and nothing signed."""

    accept: ClassVar[str] = "text/event-stream"
    """The media type of a stream."""

    async def open(self) -> None:
        """Gets ready; may be called again after `close`.

        Raises:
            PenstockError: Something that it needs is not there.
        """

    async def close(self) -> None:
        """Lets go what `open` got."""

    async def signed(self, method: str, url: str, headers: Mapping[str, str], data: bytes | None) -> Mapping[str, str]:
        """The headers of a request, with what proves that it is ours.

        Args:
            method: `GET` or `POST`.
            url: The URL exactly as it is sent.
            headers: Its headers so far.
            data: Its body.

        Raises:
            PenstockError: It cannot be signed now.
        """
        return headers

    def parser(self) -> StreamParser:
        """A parser for one stream."""
        return SSEParser()

    def refusal(self, status: int, body: bytes, headers: Mapping[str, str], asked: Asked) -> PenstockError:
        """The error that an answer of that status, 300 or more, is."""
        return response_error(status, body, headers, asked)
