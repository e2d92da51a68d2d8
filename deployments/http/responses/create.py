"""`POST /v1/responses`."""

import time
import uuid

from aiohttp import web

from deployments.http.responses.conversation import conversation_of
from deployments.http.responses.reasoning import Sealer, thoughts_of
from deployments.http.responses.response_body import ResponseBody, parse_context, response_asking
from deployments.http.responses.response_events import ResponseOutput, ResponseStream
from deployments.http.responses.response_object import ResponseObject, end_of
from deployments.http.server.answer import answer_stream, answer_whole
from deployments.http.server.exchange import Exchange, json_response


async def create(exchange: Exchange) -> web.StreamResponse:
    """Answers a conversation.

    Raises:
        PenstockError: Nothing was sent yet.
    """
    data = await exchange.body()
    body = parse_context(ResponseBody, data)
    exchange.name_model(body.model)
    sealer = Sealer(exchange.services.secret, exchange.tenant.name)
    items = body.items()
    thoughts = await thoughts_of(items, sealer)
    await exchange.turn()
    conversation = conversation_of(body.instructions, items, thoughts)
    await exchange.turn()
    asking = response_asking(body, data, exchange.hints(), conversation)
    # The client names its requests as it likes, and no two responses may have one id.
    id = uuid.uuid4().hex
    response = ResponseObject(f"resp_{id}", exchange.created_s, body.echo(data), is_stored=False)
    output = ResponseOutput(id, body.custom_tools, sealer.seal, encrypts=body.encrypts)
    if body.stream:
        stream = ResponseStream(response, output, request_id=exchange.id)
        return await answer_stream(exchange, [asking], stream, [[output]])
    (completion,) = await answer_whole(exchange, [asking], output.hear)
    exchange.meter.finish(completion.usage, (choice.reason for choice in completion.choices))
    end = end_of(output.ended_by, completion.usage, int(time.time()))
    return json_response(response.text(output.json, end))
