"""`POST /v1/responses/input_tokens`."""

import json

from aiohttp import web

from deployments.http.responses.reasoning import Sealer
from deployments.http.responses.response_body import ContextBody, parse_context, tokenize_asking
from deployments.http.responses.said import conversation_in
from deployments.http.server.exchange import Exchange, json_response


async def input_tokens(exchange: Exchange) -> web.StreamResponse:
    """How many tokens a conversation has, as the model's own chat template and tokenizer make them.

    Raises:
        PenstockError: They cannot be counted.
    """
    data = await exchange.body()
    body = parse_context(ContextBody, data)
    exchange.name_model(body.model)
    sealer = Sealer(exchange.services.secret, exchange.tenant.name)
    with exchange.services.bodies.room() as room:
        _, conversation = await conversation_in(exchange, body, sealer, room)
        request, names = tokenize_asking(body, data, exchange.hints(), conversation)
    await exchange.turn()
    with names.spoken():
        answer = await exchange.engine(body.model).tokenize(request)
    return json_response(json.dumps({"object": "response.input_tokens", "input_tokens": len(answer.token_ids)}))
