"""Server-sent events, read out of bytes that come in pieces of any size.

Follows https://html.spec.whatwg.org/multipage/server-sent-events.html, section "Parsing an event stream"; `id` and
`retry` have no use here.
"""

import re
from typing import NamedTuple

MAX_EVENT_BYTES = 4 * 2**20
"""Largest line, and largest data of one event."""
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class MalformedStream(ValueError):
    """The bytes are no stream of server-sent events, or one with an event beyond all measure."""


class ServerSentEvent(NamedTuple):
    """One event: its type (`message` unless the stream says otherwise), and its data."""

    type: str
    data: str


class SSEParser:
    """Takes bytes, gives events. What is not complete at the end of the stream is no event.

    Args:
        max_event_bytes: Largest line, and largest data of one event.
    """

    __slots__ = ("_after_cr", "_data", "_data_bytes", "_is_first", "_max", "_rest", "_rest_bytes", "_type")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._after_cr = False
        self._is_first = True
        self._type = ""
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete.

        Raises:
            MalformedStream: A line or an event is too large, or is not UTF-8.
        """
        if self._after_cr and data:
            # The carriage return ended its line when it came; a line feed after it belongs to it.
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if not data:
            return []
        *lines, rest = _LINE_END.split(data)
        self._after_cr = data.endswith(b"\r")
        events: list[ServerSentEvent] = []
        for line in lines:
            if self._rest:
                line = b"".join((*self._rest, line))
                self._rest.clear()
                self._rest_bytes = 0
            event = self._line(line)
            if event is not None:
                events.append(event)
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)
            if self._rest_bytes > self._max:
                raise MalformedStream(f"a line is longer than {self._max} bytes")
        return events

    def _line(self, line: bytes) -> ServerSentEvent | None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            return self._dispatch()
        if len(line) > self._max:
            raise MalformedStream(f"a line is longer than {self._max} bytes")
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max:
                raise MalformedStream(f"the data of an event are more than {self._max} bytes")
            self._data.append(_text(value))
        elif name == b"event":
            self._type = _text(value)
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        event = ServerSentEvent(self._type or "message", "\n".join(self._data)) if self._data else None
        self._type = ""
        self._data = []
        self._data_bytes = 0
        return event


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedStream("a line is not UTF-8") from None
