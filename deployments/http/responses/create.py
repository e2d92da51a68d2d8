"""`POST /v1/responses`."""

import time
import uuid

from aiohttp import web

from deployments.http.responses.asked import asked
from deployments.http.responses.background.answers import create_in_background
from deployments.http.responses.keeping import Keeper, Place
from deployments.http.responses.reasoning import Sealer
from deployments.http.responses.response_body import ResponseBody, parse_context
from deployments.http.responses.response_events import ResponseOutput, ResponseStream
from deployments.http.responses.response_object import ResponseObject, end_of
from deployments.http.responses.said import stored_responses
from deployments.http.server.answer import answer_stream, answer_whole
from deployments.http.server.exchange import Exchange, json_response


async def create(exchange: Exchange) -> web.StreamResponse:
    """Answers a conversation.

    Raises:
        PenstockError: Nothing was sent yet.
    """
    data = await exchange.body()
    body = parse_context(ResponseBody, data)
    if body.background:
        return await create_in_background(exchange, body, data)
    exchange.name_model(body.model)
    is_stored = _is_stored(exchange, body)
    sealer = Sealer(exchange.services.secret, exchange.tenant.name)
    asking, given, history = await asked(exchange, body, data, sealer)
    # The client names its requests as it likes, and no two responses may have one id.
    id = uuid.uuid4().hex
    response = ResponseObject(f"resp_{id}", exchange.created_s, body.echo(data), is_stored=is_stored)
    keeps_rhythm = is_stored and bool(body.stream)
    output = ResponseOutput(id, body.custom_tools, sealer.seal, encrypts=body.encrypts, keeps_rhythm=keeps_rhythm)
    keep = None
    if is_stored or body.conversation_id is not None:
        kept, tenant = stored_responses(exchange, "store"), exchange.tenant.name
        place = Place(body.previous_response_id, history, body.conversation_id)
        keep = Keeper(kept, response, output, given, tenant, place, is_asked_for=bool(body.store)).keep
    if body.stream:
        stream = ResponseStream(response, output, request_id=exchange.id, keep=keep)
        return await answer_stream(exchange, [asking], stream, [[output]])
    (completion,) = await answer_whole(exchange, [asking], output.hear)
    exchange.meter.finish(completion.usage, (choice.reason for choice in completion.choices))
    end = end_of(output.ended_by, completion.usage, int(time.time()))
    if keep is not None:
        await keep(end)
    return json_response(response.text(output.json, end))


def _is_stored(exchange: Exchange, body: ResponseBody) -> bool:
    """Whether the response is to be stored: where its client does not say, if that can be done.

    Raises:
        Unsupported: It is asked for, and there is no database.
        DatabaseUnavailable: It is asked for, and the database is not there.
    """
    storage = exchange.services.storage
    if body.store:
        stored_responses(exchange, "store")
        assert storage is not None
        storage.database.check()
    return body.store is not False and storage is not None and not storage.database.problem
