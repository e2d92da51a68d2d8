"""Answers of JSON that may be long: written piece by piece, so that nobody else waits for the whole of one."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aiohttp import web

from deployments.http.server.exchange import Exchange
from engines.turns import Turns

STREAM_FROM_CHARS = 256 * 1024
"""A longer answer is sent while it is made, so that it need not lie in memory as a whole."""
PIECE = 1024
"""Values that become JSON in one piece."""
TEXT_PIECE = 64 * 1024
"""Characters likewise."""
BASE64_PIECE = 3 * 16 * 1024
"""Bytes likewise; of whole threes, so that no padding comes in the middle."""


def in_pieces(values: Sequence[Any]) -> Iterator[str]:
    """The JSON of a list of plain values."""
    yield "["
    for begin in range(0, len(values), PIECE):
        yield (", " if begin else "") + json.dumps(values[begin : begin + PIECE])[1:-1]
    yield "]"


def text_in_pieces(text: str) -> Iterator[str]:
    """The JSON of a text."""
    yield '"'
    for begin in range(0, len(text), TEXT_PIECE):
        yield json.dumps(text[begin : begin + TEXT_PIECE])[1:-1]
    yield '"'


def base64_in_pieces(data: memoryview) -> Iterator[str]:
    """The JSON of data in base64."""
    yield '"'
    for begin in range(0, len(data), BASE64_PIECE):
        yield base64.b64encode(data[begin : begin + BASE64_PIECE]).decode()
    yield '"'


def pieces_of(value: Any) -> Iterator[str]:
    """The JSON of a value in which iterators stand for lists: what they give is made when its turn comes."""
    if isinstance(value, dict):
        yield "{"
        for number, (key, child) in enumerate(value.items()):
            yield f"{', ' if number else ''}{json.dumps(key)}: "
            yield from pieces_of(child)
        yield "}"
    elif isinstance(value, Iterator):
        yield "["
        for number, child in enumerate(value):
            if number:
                yield ", "
            yield from pieces_of(child)
        yield "]"
    elif isinstance(value, list) and len(value) > PIECE:
        yield from in_pieces(value)
    else:
        yield json.dumps(value)


async def whole(pieces: Iterable[str]) -> str:
    """The JSON that the pieces make up, for what keeps it."""
    made: list[str] = []
    turns = Turns()
    for piece in pieces:
        made.append(piece)
        await turns.pause()
    return "".join(made)


async def answer_in_pieces(exchange: Exchange, pieces: Iterable[str]) -> web.StreamResponse:
    """Answers with the JSON that the pieces make up."""
    response: web.StreamResponse | None = None
    made: list[str] = []
    chars = 0
    turns = Turns()
    for piece in pieces:
        made.append(piece)
        chars += len(piece)
        if chars >= STREAM_FROM_CHARS:
            if response is None:
                response = await _open(exchange)
            # Waits for a client that does not keep up.
            await response.write("".join(made).encode())
            made.clear()
            chars = 0
        await turns.pause()
    rest = "".join(made).encode()
    if response is None:
        return web.Response(body=rest, content_type="application/json")
    await response.write_eof(rest)
    return response


async def _open(exchange: Exchange) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    exchange.set_headers(response)
    await response.prepare(exchange.request)
    return response
