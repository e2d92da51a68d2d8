"""A whole chat completion, as clients read it."""

from typing import Any

from deployments.http.openai.chat_body import ChatBody
from deployments.http.openai.logprobs import chat_logprobs_later
from deployments.http.openai.usage import usage_body
from engines.completion import Choice, Completion


def chat_completion(id: str, created_s: int, body: ChatBody, completion: Completion) -> dict[str, Any]:
    """The object; its choices are an iterator, for `long_answer.pieces_of`."""
    return {
        "id": id,
        "object": "chat.completion",
        "created": created_s,
        "model": body.model,
        "choices": (_choice(index, choice, body) for index, choice in enumerate(completion.choices)),
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
