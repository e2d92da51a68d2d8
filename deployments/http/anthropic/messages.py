"""`POST /v1/messages`."""

import json
from functools import partial
from typing import Any

from aiohttp import web

from deployments.http.anthropic.conversation import conversation_of
from deployments.http.anthropic.message_body import MessageBody, message_asking, parse_conversation
from deployments.http.anthropic.message_events import MessageBlocks, MessageStream, assistant_message
from deployments.http.anthropic.stop_reason import Stop, stop_of
from deployments.http.anthropic.thinking import Thought, thinking_of
from deployments.http.anthropic.usage import usage_body
from deployments.http.anthropic.version import check_version
from deployments.http.server.answer import answer_stream, answer_whole
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.json_guard import parse_object
from engines.completion import Choice, CompletedToolCall
from engines.errors import InvalidRequest
from engines.events import FinishReason, Usage

_MAX_INPUT_DEPTH = 100


async def messages(exchange: Exchange) -> web.StreamResponse:
    """Answers a conversation.

    Raises:
        PenstockError: Nothing was sent yet.
    """
    check_version(exchange.request)
    data = await exchange.body()
    body = parse_conversation(MessageBody, data)
    exchange.name_model(body.model)
    secret = exchange.services.secret
    secret.check()
    thinking = await thinking_of(body.messages, secret)
    await exchange.turn()
    conversation = conversation_of(body.system, body.messages, thinking)
    await exchange.turn()
    asking = message_asking(body, data, exchange.hints(), conversation)
    context_length = exchange.model_of(body.model).engine.capabilities.context_length
    id = f"msg_{exchange.id}"
    thought = partial(Thought, secret, shown=body.shows_thinking)

    def stop(reason: FinishReason, stop_reason: int | str | None, usage: Usage) -> Stop:
        return stop_of(reason, stop_reason, usage, context_length)

    if body.stream:
        stream = MessageStream(id, body.model, stop, request_id=exchange.id)
        return await answer_stream(exchange, [asking], stream, [[MessageBlocks(stream, thought)]])
    (completion,) = await answer_whole(exchange, [asking])
    exchange.meter.finish(completion.usage, (choice.reason for choice in completion.choices))
    (choice,) = completion.choices
    ended = stop(choice.reason, choice.stop_reason, completion.usage)
    answer = assistant_message(id, body.model, _content(choice, thought()), ended, usage_body(completion.usage))
    return json_response(json.dumps(answer))


def _content(choice: Choice, thought: Thought) -> list[dict[str, Any]]:
    """The blocks of an answer."""
    blocks: list[dict[str, Any]] = []
    if choice.reasoning:
        thought.add(choice.reasoning)
        shown = choice.reasoning if thought.shown else ""
        blocks.append({"type": "thinking", "thinking": shown, "signature": thought.signature()})
    blocks.extend({"type": "redacted_thinking", "data": data} for data in choice.redacted_reasoning)
    if choice.text:
        blocks.append({"type": "text", "text": choice.text, "citations": None})
    blocks.extend(
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in choice.tool_calls
    )
    return blocks


def _input(call: CompletedToolCall) -> dict[str, Any]:
    """The arguments of a call; where they are no JSON object, as when they were cut short, the text that they are."""
    try:
        return parse_object((call.arguments or "{}").encode("utf-8", "surrogatepass"), _MAX_INPUT_DEPTH)
    except InvalidRequest:
        # What Anthropic's documentation tells clients to write in such a case.
        return {"INVALID_JSON": call.arguments}
