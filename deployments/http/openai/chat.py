"""`POST /v1/chat/completions`."""

import json

from aiohttp import web

from deployments.http.openai.chat_body import parse_chat
from deployments.http.openai.chat_chunks import ChatChunks
from deployments.http.openai.chat_completion import chat_completion
from deployments.http.openai.chat_keeping import chat_keeper
from deployments.http.openai.generation_body import stream_report
from deployments.http.openai.stream_format import CompletionStream
from deployments.http.server.answer import answer_stream, answer_whole
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.long_answer import answer_in_pieces, pieces_of


async def chat(exchange: Exchange) -> web.StreamResponse:
    """Answers a conversation.

    Raises:
        PenstockError: Nothing was sent yet.
    """
    data = await exchange.body()
    body, asking = parse_chat(data, exchange.hints())
    exchange.name_model(body.model)
    keeper = await chat_keeper(exchange, body, data)
    id = f"chatcmpl-{exchange.id}" if keeper is None else keeper.id
    keep, hear = (None, None) if keeper is None else (keeper.keep, keeper.hear)
    if body.stream:
        report = stream_report(body)
        chunks = CompletionStream(
            id, "chat.completion.chunk", body.model, exchange.created_s, report, request_id=exchange.id, keep=keep
        )
        choices = [ChatChunks(chunks, index, body.finish_reason) for index in range(asking.request.sampling.n)]
        return await answer_stream(exchange, [asking], chunks, [choices], hear)
    (completion,) = await answer_whole(exchange, [asking], hear)
    exchange.meter.finish(completion.usage, (choice.reason for choice in completion.choices))
    if keep is not None:
        await keep()
    answer = chat_completion(id, exchange.created_s, body, completion)
    if body.logprobs or body.return_token_ids:
        # It may be long: each choice, and each piece of its log probabilities, is made when its turn comes.
        return await answer_in_pieces(exchange, pieces_of(answer))
    return json_response(json.dumps(answer | {"choices": list(answer["choices"])}))
