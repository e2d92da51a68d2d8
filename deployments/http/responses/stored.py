"""What can be asked of a stored response: `/v1/responses/{id}`, `.../input_items` and `.../cancel`."""

import json
from collections.abc import Iterable

from aiohttp import web

from deployments.database.kept_responses import KeptResponse, ResponseNotFound
from deployments.http.openai_common.pages import page_asked, page_text
from deployments.http.responses.background.answers import answer_unfinished, background_responses, unfinished
from deployments.http.responses.background.runs import BackgroundRuns
from deployments.http.responses.rhythm import replayed
from deployments.http.responses.said import stored_responses
from deployments.http.server.answer import open_events
from deployments.http.server.bodies import BodyRoom
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.query import flag, number
from engines.errors import InvalidRequest
from engines.turns import Turns

_PIECE_CHARS = 64 * 1024
"""Events of a stream that are written in one piece."""


async def retrieve(exchange: Exchange) -> web.StreamResponse:
    """A response, or its stream from an event on.

    Raises:
        ResponseNotFound: It is not stored.
        PenstockError: The request is wrong, or it cannot be read.
    """
    is_stream = flag(exchange, "stream")
    after = number(exchange, "starting_after", -1, 0, 2**53)
    if after >= 0 and not is_stream:
        raise InvalidRequest("starting_after: it needs stream to be true.", param="starting_after")
    waiting = await unfinished(exchange)
    if waiting is not None:
        answer = await answer_unfinished(exchange, waiting, after + 1 if is_stream else None)
        if answer is not None:
            return answer
    with exchange.services.bodies.room() as room:
        found = await _found(exchange, room)
        response = {**json.loads(found.response), "output": json.loads(found.output)}
        if not is_stream:
            return json_response(json.dumps(response))
        rhythm = json.loads(found.rhythm or "[]")
    # Who reads slowly holds no part of what others' bodies need.
    return await _stream(exchange, replayed(response, rhythm), after + 1)


async def delete(exchange: Exchange) -> web.StreamResponse:
    """Removes a response, and ends it where it is made in the background.

    Raises:
        ResponseNotFound: It is not stored.
        PenstockError: It cannot be removed.
    """
    (id,) = exchange.ids
    if await background_responses(exchange).delete(id, exchange.tenant.name):
        exchange.services.worker(BackgroundRuns).forget(id)
    else:
        await stored_responses(exchange, None).delete(id, exchange.tenant.name)
    return json_response(json.dumps({"id": id, "object": "response", "deleted": True}))


async def cancel(exchange: Exchange) -> web.StreamResponse:
    """Ends a response that is made in the background, and answers with it; one that has ended stays as it is.

    Raises:
        InvalidRequest: It is not made in the background: it ends with its connection.
        ResponseNotFound: It is not stored.
        PenstockError: It cannot be ended, or read.
    """
    if await unfinished(exchange) is not None:
        (id,) = exchange.ids
        await exchange.services.worker(BackgroundRuns).cancel(id, exchange.tenant.name)
    with exchange.services.bodies.room() as room:
        found = await _found(exchange, room)
        response = json.loads(found.response)
        if not response["background"]:
            raise InvalidRequest(
                "Only a response in the background can be cancelled. Others end with their connection."
            )
        return json_response(json.dumps({**response, "output": json.loads(found.output)}))


async def input_items(exchange: Exchange) -> web.StreamResponse:
    """The items of a response's input, page by page; what it goes on from is not among them.

    Raises:
        ResponseNotFound: It is not stored.
        PenstockError: The request is wrong, or it cannot be read.
    """
    page = page_asked(exchange, "desc")
    (id,) = exchange.ids
    waiting = await unfinished(exchange)
    with exchange.services.bodies.room() as room:
        given = None
        if waiting is not None:
            room.grow_to(waiting.bytes)
            given = await background_responses(exchange).input(id, exchange.tenant.name)
        # It may have ended meanwhile.
        items = json.loads((await _found(exchange, room)).input if given is None else given)
        places, has_more = page.of([item["id"] for item in items], "input")
        listed = [items[place] for place in places]
        texts = [json.dumps(item) for item in listed]
        return json_response(page_text(texts, [item["id"] for item in listed], has_more=has_more))


async def _found(exchange: Exchange, room: BodyRoom) -> KeptResponse:
    """The response that the path names; what it takes to read counts as a body does."""
    (id,) = exchange.ids
    kept, tenant = stored_responses(exchange, None), exchange.tenant.name
    room.grow_to(await kept.bytes([id], tenant))
    found = (await kept.find([id], tenant)).get(id)
    if found is None:
        raise ResponseNotFound(id)
    return found


async def _stream(exchange: Exchange, events: Iterable[str], first: int) -> web.StreamResponse:
    """Events of a response, from one of them on."""
    response = await open_events(exchange)
    waiting: list[str] = []
    chars = 0
    turns = Turns()
    for place, event in enumerate(events):
        if place >= first:
            waiting.append(event)
            chars += len(event)
        if chars >= _PIECE_CHARS:
            # Waits for a client that does not keep up.
            await response.write("".join(waiting).encode("ascii"))
            waiting.clear()
            chars = 0
        await turns.pause()
    await response.write_eof("".join(waiting).encode("ascii"))
    return response
