"""`POST /v1/messages/count_tokens`."""

import json

from aiohttp import web

from deployments.http.anthropic.conversation import conversation_of
from deployments.http.anthropic.message_body import ConversationBody, parse_conversation, tokenize_asking
from deployments.http.anthropic.thinking import thinking_of
from deployments.http.anthropic.version import check_version
from deployments.http.server.exchange import Exchange, json_response


async def count_tokens(exchange: Exchange) -> web.StreamResponse:
    """How many tokens a conversation has, as the model's own chat template and tokenizer make them.

    Raises:
        PenstockError: They cannot be counted.
    """
    check_version(exchange.request)
    data = await exchange.body()
    body = parse_conversation(ConversationBody, data)
    exchange.name_model(body.model)
    thinking = await thinking_of(body.messages, exchange.services.secret)
    await exchange.turn()
    conversation = conversation_of(body.system, body.messages, thinking)
    await exchange.turn()
    request, names = tokenize_asking(body, data, exchange.hints(), conversation)
    await exchange.turn()
    with names.spoken():
        answer = await exchange.engine(body.model).tokenize(request)
    return json_response(json.dumps({"input_tokens": len(answer.token_ids)}))
