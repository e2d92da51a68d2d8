"""Base64, read strictly and written, in turns: a body may be megabytes of it."""

import binascii
import re

from engines.turns import Turns

_SLICE = 128 * 1024
"""Characters that are read, and three quarters of which as bytes are written, in one step; four make three bytes."""
_HEAD_CHARS = 256
_HEAD = re.compile(r"data:([a-z0-9.+-]+/[a-z0-9.+-]+)(?:;[a-z0-9-]+=[a-z0-9._-]+)*;base64,", re.IGNORECASE)


def split_data_url(url: str) -> tuple[str, int] | None:
    """The media type that a data URL declares, in lower case, and where its base64 begins; None: it is none."""
    found = _HEAD.match(url[:_HEAD_CHARS])
    return None if found is None else (found[1].lower(), found.end())


def decoded_bytes(text: str, start: int = 0) -> int:
    """How many bytes base64 is, from `start` on, if it is right."""
    return (len(text) - start) // 4 * 3 - text.count("=", max(start, len(text) - 2))


async def decode(text: str, start: int = 0) -> bytes:
    """The bytes of base64, from `start` on: the alphabet of RFC 4648, padded, and nothing in between.

    Raises:
        ValueError: It is something else.
    """
    turns = Turns()
    pieces = []
    for at in range(start, len(text), _SLICE):
        piece = binascii.a2b_base64(text[at : at + _SLICE], strict_mode=True)
        # Padding ends the data, and only the last slice does.
        if at + _SLICE < len(text) and len(piece) * 4 != _SLICE * 3:
            raise ValueError("there is something behind the end of the data")
        pieces.append(piece)
        await turns.pause()
    return b"".join(pieces)


async def encode(data: bytes) -> str:
    """Bytes as base64."""
    turns = Turns()
    pieces = []
    step = _SLICE // 4 * 3
    for at in range(0, len(data), step):
        pieces.append(binascii.b2a_base64(data[at : at + step], newline=False).decode("ascii"))
        await turns.pause()
    return "".join(pieces)


async def data_url(media_type: str, data: bytes) -> str:
    """A data URL."""
    return f"data:{media_type};base64,{await encode(data)}"
