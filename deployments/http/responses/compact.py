"""`POST /v1/responses/compact`: a conversation in short, which its model makes and which only this fleet reads."""

import json
import uuid

from aiohttp import web

from deployments.http.responses.reasoning import Sealer, Thought
from deployments.http.responses.response_body import CompactBody, parse_context
from deployments.http.responses.said import conversation_in
from deployments.http.responses.usage import usage_body
from deployments.http.server.answer import answer_whole
from deployments.http.server.asking import Asking
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.names import Names
from deployments.http.server.validation import build
from engines.errors import EngineFailed
from engines.requests import GenerateRequest

_ASK = (
    "Summarize our conversation so far. You will go on with it from your summary alone, so write down what was asked "
    "for, what was found out and decided, what is still to be done, and every name, number and text that will be "
    "needed. Write nothing but the summary."
)


async def compact(exchange: Exchange) -> web.StreamResponse:
    """A conversation as one item, which stands for it in later requests.

    Raises:
        PenstockError: It could not be made.
    """
    data = await exchange.body()
    body = parse_context(CompactBody, data)
    exchange.name_model(body.model)
    sealer = Sealer(exchange.services.secret, exchange.tenant.name)
    hints = exchange.hints()
    with exchange.services.bodies.room() as room:
        _, conversation = await conversation_in(exchange, body, sealer, room)
        names = Names(data, {**body.dispatch_names(hints), **conversation.names})
        messages = [*conversation.messages, {"role": "user", "content": _ASK}]
        request = build(GenerateRequest, names, model=body.model, messages=messages, **body.dispatch(hints))
    (completion,) = await answer_whole(exchange, [Asking(request, names)])
    exchange.meter.finish(completion.usage, (choice.reason for choice in completion.choices))
    if not completion.text.strip():
        raise EngineFailed("The model has said nothing that would stand for the conversation.")
    id = uuid.uuid4().hex
    sealed = sealer.seal(Thought(completion.text), "responses compaction")
    answer = {
        "id": f"resp_{id}",
        "object": "response.compaction",
        "created_at": exchange.created_s,
        "output": [{"id": f"cmp_{id}", "type": "compaction", "encrypted_content": sealed}],
        "usage": usage_body(completion.usage),
    }
    return json_response(json.dumps(answer))
