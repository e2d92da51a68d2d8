"""How a question is asked of each HTTP API that streams, and its answer read."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from clusters.chaos.answer import Answer

_MAX_TOKENS = 100_000
"""More than any answer has: Messages wants to be told."""


class Api(StrEnum):
    """The APIs over which chaos asks."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    REALTIME = "realtime"


@dataclass(frozen=True, slots=True)
class StreamedApi:
    """One API whose answers are streams of server-sent events.

    Attributes:
        path: Where it is asked.
        body: The body that asks a model a question.
        take: Gives to an answer what an event says, by its data.
    """

    path: str
    body: Callable[[str, str], dict[str, Any]]
    take: Callable[[Answer, str], None]


def counting_question(first: int, last: int) -> str:
    """Asks for these numbers and those between them."""
    return f"count from {first} to {last}"


def streamed_api(api: Api) -> StreamedApi:
    """How it is asked; not for realtime, which is no stream of server-sent events."""
    return _STREAMED[api]


def _chat_body(model: str, question: str) -> dict[str, Any]:
    return _asking(model, messages=[{"role": "user", "content": question}])


def _responses_body(model: str, question: str) -> dict[str, Any]:
    return _asking(model, input=question)


def _messages_body(model: str, question: str) -> dict[str, Any]:
    return _chat_body(model, question) | {"max_tokens": _MAX_TOKENS}


def _asking(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "temperature": 0, "stream": True, **fields}


def _take_chunk(answer: Answer, data: str) -> None:
    if data == "[DONE]":
        answer.finish()
        return
    event = json.loads(data)
    if "error" in event:
        answer.error = str(event["error"]["message"])
        return
    for choice in event["choices"]:
        piece = choice["delta"].get("content")
        if piece:
            answer.say(piece)


def _take_response_event(answer: Answer, data: str) -> None:
    event = json.loads(data)
    match event["type"]:
        case "response.output_text.delta":
            answer.say(event["delta"])
        case "response.completed":
            answer.finish()
        case "response.failed":
            answer.error = str(event["response"]["error"]["message"])
        case "error":
            answer.error = str(event["message"])


def _take_message_event(answer: Answer, data: str) -> None:
    event = json.loads(data)
    match event["type"]:
        case "content_block_delta" if event["delta"]["type"] == "text_delta":
            answer.say(event["delta"]["text"])
        case "message_stop":
            answer.finish()
        case "error":
            answer.error = str(event["error"]["message"])


_STREAMED = {
    Api.CHAT: StreamedApi("/v1/chat/completions", _chat_body, _take_chunk),
    Api.RESPONSES: StreamedApi("/v1/responses", _responses_body, _take_response_event),
    Api.MESSAGES: StreamedApi("/v1/messages", _messages_body, _take_message_event),
}
