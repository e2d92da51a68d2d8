"""What is answered of a response in the background: that it waits, how it stands, and its events while more come."""

import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from deployments.database.background_responses import BackgroundResponses, NewResponse, Unfinished
from deployments.http.responses.asked import asked
from deployments.http.responses.background.request import BackgroundRequest
from deployments.http.responses.background.runs import BackgroundRuns
from deployments.http.responses.background.told import Head, unfinished_text
from deployments.http.responses.keeping import Place, items_text, written_input
from deployments.http.responses.reasoning import Sealer
from deployments.http.responses.response_body import ResponseBody
from deployments.http.responses.said import stored_responses
from deployments.http.server.answer import open_events
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.sse_stream import KEEP_ALIVE_S
from deployments.http.server.stream_format import StreamFormat
from deployments.tenants.bounds import TenantBounds
from engines.errors import InvalidRequest


async def create_in_background(exchange: Exchange, body: ResponseBody, data: Mapping[str, Any]) -> web.StreamResponse:
    """Stores a response that is to be made, and answers that it waits, or with its events as they come.

    Args:
        exchange: The request.
        body: Its body.
        data: What that was parsed from.

    Raises:
        Unsupported: There is no database.
        TooManyInBackground: The tenant has as much in the background as it may.
        PenstockError: The body is wrong, or the response cannot be stored.
    """
    stored_responses(exchange, "background")
    if body.store is False:
        message = "background: such a response is stored until it is read. Leave store out, or set it to true."
        raise InvalidRequest(message, param="background")
    storage, tenant = exchange.services.storage, exchange.tenant
    assert storage is not None and exchange.holder is not None
    storage.database.check()
    # What is wrong is said now, as far as it can be told before an engine has seen it.
    exchange.model_of(body.model)
    asking, given, history = await asked(exchange, body, data, Sealer(exchange.services.secret, tenant.name))
    with asking.names.spoken():
        TenantBounds(tenant).bounded(asking.request)
    id = f"resp_{uuid.uuid4().hex}"
    head = Head(id, exchange.created_s, body.echo(data), sorted(body.custom_tools), body.encrypts)
    place = Place(body.previous_response_id, history, body.conversation_id)
    added = [] if place.conversation is None else await written_input(id, given, renamed=True)
    request = BackgroundRequest(asking, place, added, exchange.holder.key.sha256)
    items = items_text(await written_input(id, given, renamed=False))
    new = NewResponse(id, head.text, items, await request.text())
    most = exchange.services.settings.responses.background.max_request_bytes
    if new.bytes > most:
        message = f"background: with its conversation the request has {new.bytes} bytes, of at most {most}."
        raise InvalidRequest(message, param="background")
    await exchange.services.worker(BackgroundRuns).begin(new, tenant.name)
    if body.stream:
        return await _follow(exchange, head, 0)
    return json_response(unfinished_text(head, is_started=False))


def background_responses(exchange: Exchange) -> BackgroundResponses:
    """Where those are that have not ended.

    Raises:
        Unsupported: Nowhere.
    """
    stored_responses(exchange, None)
    assert exchange.services.storage is not None
    return exchange.services.storage.background


async def unfinished(exchange: Exchange) -> Unfinished | None:
    """The response that the path names; None: there is none that has not ended.

    Raises:
        Unsupported: Nothing is stored.
        DatabaseUnavailable: The database does not answer.
    """
    (id,) = exchange.ids
    return await background_responses(exchange).find(id, exchange.tenant.name)


async def answer_unfinished(exchange: Exchange, response: Unfinished, first: int | None) -> web.StreamResponse | None:
    """How a response stands that has not ended, or its events as they come; None: it has ended meanwhile.

    Args:
        exchange: Who asks.
        response: The response.
        first: The number of the first event; None: how it stands.

    Raises:
        BodiesOverBudget: There is no room for it.
        DatabaseUnavailable: The database does not answer.
    """
    with exchange.services.bodies.room() as room:
        room.grow_to(response.bytes)
        text = await background_responses(exchange).head(response.id, exchange.tenant.name)
        if text is None:
            return None
        head = Head.parse(response.id, text)
        if first is None:
            return json_response(unfinished_text(head, is_started=response.is_started))
    # Who reads slowly holds no part of what others' bodies need, but for the events.
    return await _follow(exchange, head, first)


async def _follow(exchange: Exchange, head: Head, first: int) -> web.StreamResponse:
    """The events of a response from a number on, as they come."""
    with exchange.services.worker(BackgroundRuns).feeds.reading(head, exchange.tenant.name) as feed:
        stream = await open_events(exchange)
        async for events in feed.read(first, KEEP_ALIVE_S):
            # Waits for a client that does not keep up.
            await stream.write((events or StreamFormat.keep_alive).encode("ascii"))
        await stream.write_eof()
    return stream
