"""AWS's binary framing of event streams (`application/vnd.amazon.eventstream`), read out of pieces of any size.

A message is a prelude (its length, the length of its headers, and the CRC-32 of these two), headers, a payload, and the
CRC-32 of all before it; numbers are big-endian. It is read here rather than with botocore: botocore takes messages of
24 MiB, copies the rest of its buffer once per header, and lets any exception out of bytes that are no such stream.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from engines.remote.sse import MAX_EVENT_BYTES, MalformedStream

MAX_MESSAGE_BYTES = 2 * MAX_EVENT_BYTES
"""Largest message: an event of the largest size, in base64, and what is around it."""
_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_LEAST_BYTES = _PRELUDE.size + _CRC.size
_LENGTH = struct.Struct(">H")
_STRING = 7
# Bytes of a header's value by its type: two booleans, integers of 1, 2, 4 and 8 bytes, a timestamp, a UUID. Byte arrays
# and strings (6 and 7) begin with their length.
_VALUE_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_BYTE_ARRAY = 6


class EventStreamMessage(NamedTuple):
    """One message: its headers that are strings, and its payload."""

    headers: Mapping[str, str]
    payload: bytes


class EventStreamDecoder:
    """Takes bytes, gives messages. What is not complete at the end of the stream is no message.

    Args:
        max_message_bytes: Largest message.
    """

    __slots__ = ("_length", "_max", "_rest")

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max = max_message_bytes
        self._rest = bytearray()
        self._length = 0

    def feed(self, data: bytes) -> list[EventStreamMessage]:
        """The messages that these bytes complete.

        Raises:
            MalformedStream: A checksum is wrong, or a message is too large, or no such message.
        """
        rest = self._rest
        rest += data
        messages: list[EventStreamMessage] = []
        at = 0
        while len(rest) - at >= _PRELUDE.size:
            if not self._length:
                self._length = self._checked_length(bytes(rest[at : at + _PRELUDE.size]))
            end = at + self._length
            if len(rest) < end:
                break
            messages.append(_message(bytes(rest[at:end])))
            at = end
            self._length = 0
        del rest[:at]
        return messages

    def _checked_length(self, prelude: bytes) -> int:
        length, headers_length, crc = _PRELUDE.unpack(prelude)
        if zlib.crc32(prelude[: -_CRC.size]) != crc:
            raise MalformedStream("the checksum of a message's beginning is wrong")
        if length > self._max:
            raise MalformedStream(f"a message is larger than {self._max} bytes")
        if length < _LEAST_BYTES + headers_length:
            raise MalformedStream("a message is shorter than its parts")
        return int(length)


def _message(message: bytes) -> EventStreamMessage:
    if zlib.crc32(message[: -_CRC.size]) != _CRC.unpack(message[-_CRC.size :])[0]:
        raise MalformedStream("the checksum of a message is wrong")
    end = _PRELUDE.size + _PRELUDE.unpack_from(message)[1]
    try:
        headers = _headers(message, _PRELUDE.size, end)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError):
        raise MalformedStream("the headers of a message cannot be read") from None
    return EventStreamMessage(headers, message[end : -_CRC.size])


def _headers(message: bytes, at: int, end: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    while at < end:
        name_end = at + 1 + message[at]
        name = message[at + 1 : name_end].decode()
        type = message[name_end]
        at = name_end + 1
        if type in (_STRING, _BYTE_ARRAY):
            (size,) = _LENGTH.unpack_from(message, at)
            at += _LENGTH.size
        else:
            size = _VALUE_BYTES[type]
        if type == _STRING:
            headers[name] = message[at : at + size].decode()
        at += size
    if at != end:
        raise MalformedStream("the headers of a message are longer than it says")
    return headers
