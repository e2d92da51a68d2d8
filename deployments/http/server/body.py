"""Reading a request's body, within the limits."""

import asyncio
from typing import Any

from aiohttp import http_exceptions, web

from deployments.fleet_settings import HttpSettings
from deployments.http.server.bodies import Bodies, BodyRoom
from deployments.http.server.connection import Connection
from deployments.http.server.refusals import BodyTimeout, NotHttp, UnsupportedMediaType
from engines.errors import InvalidRequest, RequestTooLarge

_FRAMING_BYTES = 256 * 1024
"""What the framing of a chunked body may take besides an eighth of it: each chunk costs microseconds, however small."""


async def read_json(request: web.BaseRequest, settings: HttpSettings, bodies: Bodies) -> dict[str, Any]:
    """The JSON object in the request's body.

    Raises:
        UnsupportedMediaType: The body is not declared as JSON, or it is compressed.
        RequestTooLarge: It is over the limit; with a Content-Length, before any of it is read.
        BodiesOverBudget: So many bodies are being read that there is no room for it; likewise.
        BodyTimeout: It did not come in time.
        InvalidRequest: It is not a JSON object.
    """
    _check_head(request, settings)
    with bodies.room() as room:
        room.grow_to(request.content_length or 0)
        body = await _body(request, settings, room)
        if not body:
            raise InvalidRequest("The request has no body; send a JSON object.")
        return await bodies.parse(body, settings.max_json_depth, settings.max_token_ids)


async def _body(request: web.BaseRequest, settings: HttpSettings, room: BodyRoom) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        # The client waits for a word before it sends a large body; one that is refused above is never sent.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _read(request, settings.max_body_bytes, room)
    except TimeoutError:
        raise BodyTimeout(f"The request body did not come within {settings.body_timeout_s:g} s.") from None
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError):
        raise NotHttp("The request body is not framed as HTTP asks for.") from None


def _check_head(request: web.BaseRequest, settings: HttpSettings) -> None:
    # Only JSON, so that no web page can make a browser send a request without asking first (CORS).
    if request.content_type != "application/json":
        raise UnsupportedMediaType("Send the body as `Content-Type: application/json`.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send the body uncompressed: Content-Encoding is not supported.")
    if request.content_length is not None and request.content_length > settings.max_body_bytes:
        raise RequestTooLarge(settings.max_body_bytes)


async def _read(request: web.BaseRequest, limit_bytes: int, room: BodyRoom) -> bytes:
    pieces = []
    size = 0
    connection = request.protocol
    assert isinstance(connection, Connection)
    before = connection.received
    while piece := await request.content.readany():
        size += len(piece)
        if size > limit_bytes:
            raise RequestTooLarge(limit_bytes)
        room.grow_to(size)
        pieces.append(piece)
        # Requests that follow on the connection are parsed after the end of this one, and do not count.
        if not request.content.is_eof() and connection.received - before - size > size // 8 + _FRAMING_BYTES:
            connection.drop_input()
            raise NotHttp("The request body comes in chunks of too few bytes; send at least 64 in each.")
    return b"".join(pieces)
