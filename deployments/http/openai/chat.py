"""`POST /v1/chat/completions`."""

import json
from typing import Any

from aiohttp import web

from deployments.http.openai.chat_body import ChatBody, parse_chat
from deployments.http.openai.chat_chunks import ChatChunks
from deployments.http.openai.generation_body import stream_report
from deployments.http.openai.logprobs import chat_logprobs_later
from deployments.http.openai.stream_format import CompletionStream
from deployments.http.openai.usage import usage_body
from deployments.http.server.answer import answer_stream, answer_whole
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.long_answer import answer_in_pieces, pieces_of
from engines.completion import Choice, Completion


async def chat(exchange: Exchange) -> web.StreamResponse:
    """Answers a conversation.

    Raises:
        PenstockError: Nothing was sent yet.
    """
    body, asking = parse_chat(await exchange.body(), exchange.hints())
    exchange.name_model(body.model)
    id = f"chatcmpl-{exchange.id}"
    if body.stream:
        chunks = CompletionStream(
            id, "chat.completion.chunk", body.model, exchange.created_s, stream_report(body), request_id=exchange.id
        )
        choices = [ChatChunks(chunks, index, body.finish_reason) for index in range(asking.request.sampling.n)]
        return await answer_stream(exchange, [asking], chunks, [choices])
    (completion,) = await answer_whole(exchange, [asking])
    exchange.meter.finish(completion.usage, (choice.reason for choice in completion.choices))
    answer = _answer(id, exchange.created_s, body, completion)
    if body.logprobs or body.return_token_ids:
        # It may be long: each choice, and each piece of its log probabilities, is made when its turn comes.
        answer["choices"] = (_choice(index, choice, body) for index, choice in enumerate(completion.choices))
        return await answer_in_pieces(exchange, pieces_of(answer))
    answer["choices"] = [_choice(index, choice, body) for index, choice in enumerate(completion.choices)]
    return json_response(json.dumps(answer))


def _answer(id: str, created_s: int, body: ChatBody, completion: Completion) -> dict[str, Any]:
    return {
        "id": id,
        "object": "chat.completion",
        "created": created_s,
        "model": body.model,
        "choices": [],
        "usage": usage_body(completion.usage),
        "service_tier": None,
        "system_fingerprint": None,
    }


def _choice(index: int, choice: Choice, body: ChatBody) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "index": index,
        "message": _message(choice),
        "logprobs": None if choice.logprobs is None else chat_logprobs_later(choice.logprobs),
        "finish_reason": body.finish_reason(choice.reason),
        "stop_reason": choice.stop_reason,
    }
    if body.return_token_ids:
        answer["token_ids"] = list(choice.token_ids)
    return answer


def _message(choice: Choice) -> dict[str, Any]:
    # OpenAI's: no content at all where there are only tool calls.
    content = choice.text if choice.text or not choice.tool_calls else None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.reasoning:
        # Under both of the names that clients know.
        message["reasoning_content"] = message["reasoning"] = choice.reasoning
    if choice.redacted_reasoning:
        message["redacted_reasoning"] = list(choice.redacted_reasoning)
    if choice.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls
        ]
    return message
