"""From a request to the token ids of its prompt: the simulated model's chat template and its checks."""

import json
from collections.abc import Sequence

from engines.attachments.beside import check_kinds
from engines.call_requests import TokenizeRequest
from engines.contract import Capabilities
from engines.errors import ContextOverflow, InvalidRequest
from engines.messages import Message, TextPart, Tool
from engines.requests import GenerateRequest
from engines.simulated.tokenizer import LONGEST, VOCABULARY_SIZE, Special, decode, encode

_ROLES = {
    "system": Special.SYSTEM,
    "developer": Special.SYSTEM,
    "user": Special.USER,
    "assistant": Special.ASSISTANT,
    "tool": Special.TOOL,
}


def prompt_ids(request: GenerateRequest | TokenizeRequest) -> list[int]:
    """The token ids of a request's prompt.

    Raises:
        InvalidRequest: The prompt is empty, or has ids that no token has.
        Unsupported: It has parts that are not text, or a budget of thinking.
    """
    if request.messages is not None:
        check_kinds(request.messages, Capabilities())
        kwargs = request.chat_template_kwargs
        if request.thinking is not None:
            kwargs = request.thinking.for_template() | kwargs
        return render(
            request.messages,
            request.tools,
            answer=request.add_generation_prompt,
            go_on=request.continue_final_message,
            think=bool(kwargs.get("enable_thinking")),
        )
    if request.prompt is not None:
        return encode(request.prompt)
    assert isinstance(request, GenerateRequest) and request.prompt_token_ids is not None
    check_ids(request.prompt_token_ids, "prompt_token_ids")
    return list(request.prompt_token_ids)


def text_size(request: GenerateRequest | TokenizeRequest) -> int:
    """Characters that become tokens, those of tools left out."""
    if request.messages is None:
        return len(request.prompt or "")
    contents = [message.content or "" for message in request.messages]
    parts = [[content] if isinstance(content, str) else content for content in contents]
    return sum(len(part if isinstance(part, str) else getattr(part, "text", "")) for some in parts for part in some)


def check_size(chars: int, context_length: int, param: str) -> None:
    """Refuses a text that cannot fit, before it is looked at.

    Raises:
        ContextOverflow: It is longer than as many of the longest tokens.
    """
    if chars > context_length * LONGEST:
        raise ContextOverflow(
            f"The prompt has {chars} characters; the context of this model has {context_length} tokens of at most "
            f"{LONGEST} characters.",
            context_length=context_length,
            param=param,
        )


def render(messages: Sequence[Message], tools: Sequence[Tool], *, answer: bool, go_on: bool, think: bool) -> list[int]:
    """The chat template: each message after the token of its role, an end token after each.

    Args:
        messages: The conversation.
        tools: What may be called; told in a first message of the system.
        answer: Whether the assistant's turn is begun.
        go_on: Whether the last message stays open.
        think: Whether the assistant's turn begins with reasoning.
    """
    ids: list[int] = []
    if tools:
        ids += [Special.SYSTEM, *encode(json.dumps([tool.for_template() for tool in tools])), Special.END]
    for message in messages:
        ids += [_ROLES[message.role], *encode(_text(message))]
        for call in message.tool_calls or ():
            name, arguments = call.function.name, call.function.arguments
            ids += [Special.TOOL_CALL, *encode(name), Special.ARGUMENTS, *encode(arguments), Special.END_TOOL_CALL]
        ids.append(Special.END)
    if go_on:
        ids.pop()
    if answer:
        ids.append(Special.ASSISTANT)
        if think:
            ids.append(Special.THINK)
    return ids


def last_turn(token_ids: Sequence[int]) -> tuple[int | None, str]:
    """Who spoke last before the assistant's turn (a token of a role), and what; for a bare prompt nobody, and all."""
    roles = (Special.USER, Special.TOOL, Special.SYSTEM)
    start = next((at for at in range(len(token_ids) - 1, -1, -1) if token_ids[at] in roles), None)
    if start is None:
        return None, decode(token_ids, skip_special=True)
    end = next((at for at in range(start + 1, len(token_ids)) if token_ids[at] == Special.END), len(token_ids))
    return token_ids[start], decode(token_ids[start + 1 : end], skip_special=True)


def budget(request: GenerateRequest, prompt_tokens: int, context_length: int) -> int:
    """How many tokens may be generated.

    Raises:
        InvalidRequest: The prompt is empty.
        ContextOverflow: The prompt, or the prompt and `max_tokens`, do not fit.
    """
    if not prompt_tokens:
        raise InvalidRequest("The prompt is empty.", param=request.kind)
    room = context_length - prompt_tokens
    if room < 1:
        raise ContextOverflow(
            f"The prompt has {prompt_tokens} tokens; the context of this model has {context_length}, with the answer.",
            context_length=context_length,
            prompt_tokens=prompt_tokens,
            param=request.kind,
        )
    wanted = request.sampling.max_tokens
    if wanted is not None and wanted > room and not request.sampling.clip_max_tokens:
        raise ContextOverflow(
            f"max_tokens ({wanted}) is too large: the prompt has {prompt_tokens} tokens and the context of this model "
            f"{context_length}.",
            context_length=context_length,
            prompt_tokens=prompt_tokens,
            param="sampling.max_tokens",
        )
    return room if wanted is None else min(wanted, room)


def check_ids(token_ids: Sequence[int], param: str) -> None:
    """Refuses ids that no token has.

    Raises:
        InvalidRequest: There is one; names `param`.
    """
    if token_ids and max(token_ids) >= VOCABULARY_SIZE:
        raise InvalidRequest(
            f"There is no token {max(token_ids)}; the vocabulary has {VOCABULARY_SIZE} tokens.", param=param
        )


def _text(message: Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    return "".join(part.text for part in message.content if isinstance(part, TextPart))
