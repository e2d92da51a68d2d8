"""How many tokens a prompt can have, as far as its text tells: nobody but the engine knows how many it has."""

from engines.messages import Message, TextPart
from engines.requests import GenerateRequest

_TEMPLATE_TOKENS = 256
"""What a chat template may add by itself."""
_MESSAGE_TOKENS = 64
"""What it may add to each message, name and role included."""
_ATTACHMENT_TOKENS = 4096
"""What an image or a document is taken for before it was read."""


def most_prompt_tokens(request: GenerateRequest) -> int:
    """The most tokens that a prompt has: no token is shorter than a byte."""
    if request.prompt_token_ids is not None:
        return len(request.prompt_token_ids)
    if request.prompt is not None:
        return len(request.prompt.encode()) + 1
    tools = sum(len(tool.model_dump_json()) for tool in request.tools)
    return _TEMPLATE_TOKENS + tools + sum(map(_message_tokens, request.messages or ()))


def _message_tokens(message: Message) -> int:
    tokens, content = _MESSAGE_TOKENS, message.content or ""
    if isinstance(content, str):
        tokens += len(content.encode())
    else:
        tokens += sum(len(part.text.encode()) if isinstance(part, TextPart) else _ATTACHMENT_TOKENS for part in content)
    if message.tool_calls or message.reasoning_content or message.model_extra:
        tokens += len(message.model_dump_json(exclude={"content"}))
    return tokens
