"""Our conversations as messages of Anthropic's API."""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Any

from engines.errors import InvalidRequest, Unsupported
from engines.messages import FilePart, ImagePart, MediaPart, Message, TextPart

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w=.-]+)*;base64,(.*)", re.DOTALL)
_KNOWN = frozenset(Message.model_fields) | {"redacted_reasoning"}
_THINKING = ("thinking", "redacted_thinking")


def system_and_messages(messages: Sequence[Message], *, vision: bool) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt that a conversation begins with, and the rest of it.

    Neighbouring results of tools, and what the user says after them, become one message, as the API has it.

    Raises:
        Unsupported: The API has no place for something in it.
        InvalidRequest: A tool call's arguments are no JSON object, or an attachment cannot be read.
    """
    system: list[str] = []
    made: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        _refuse_others(message, place)
        if message.role in ("system", "developer"):
            text = _text(message, place)
            if made:
                made.append({"role": "system", "content": text})
            else:
                system.append(text)
        elif message.role == "assistant":
            made.append({"role": "assistant", "content": _assistant(message, place, vision)})
        else:
            blocks = _blocks(message, place, vision)
            if message.role == "tool":
                if message.tool_call_id is None:
                    raise InvalidRequest("A tool's answer needs the id of its call.", param=f"{place}.tool_call_id")
                answer = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": blocks}
                blocks = [{**answer, "is_error": True} if message.is_error else answer]
            if made and made[-1]["role"] == "user" and messages[index - 1].role == "tool":
                made[-1]["content"].extend(blocks)
            else:
                made.append({"role": "user", "content": blocks})
    return "\n\n".join(system), made


def _refuse_others(message: Message, place: str) -> None:
    for name in message.model_extra or {}:
        if name not in _KNOWN and getattr(message, name) is not None:
            raise Unsupported(f"The API behind this model has no {name} in messages.", param=f"{place}.{name}")
    if message.name is not None:
        raise Unsupported("The API behind this model has no names of speakers.", param=f"{place}.name")


def _text(message: Message, place: str) -> str:
    if isinstance(message.content, str) or message.content is None:
        return message.content or ""
    for at, part in enumerate(message.content):
        if not isinstance(part, TextPart):
            raise Unsupported("A system prompt is text only.", param=f"{place}.content[{at}]")
    return "\n".join(part.text for part in message.content if isinstance(part, TextPart))


def _assistant(message: Message, place: str, vision: bool) -> list[dict[str, Any]]:
    blocks = [_thinking(item, place) for item in getattr(message, "redacted_reasoning", None) or ()]
    if message.reasoning_content and not blocks:
        # Thinking without its signature is refused there; with it, the signed block has the text, too.
        raise Unsupported(
            "Reasoning can only be sent back with the redacted_reasoning that came with it.",
            param=f"{place}.reasoning_content",
        )
    blocks.extend(_blocks(message, place, vision))
    for at, call in enumerate(message.tool_calls or ()):
        param = f"{place}.tool_calls[{at}].function.arguments"
        try:
            arguments = json.loads(call.function.arguments or "{}")
        except (ValueError, RecursionError):
            raise InvalidRequest("The arguments of a tool call are not JSON.", param=param) from None
        if not isinstance(arguments, dict):
            raise InvalidRequest("The arguments of a tool call are not a JSON object.", param=param)
        blocks.append({"type": "tool_use", "id": call.id, "name": call.function.name, "input": arguments})
    return blocks


def _thinking(item: Any, place: str) -> dict[str, Any]:
    """A block of thinking, as `engines.remote.anthropic_stream` wrapped it."""
    try:
        block = json.loads(item) if isinstance(item, str) else None
    except (ValueError, RecursionError):
        block = None
    if not isinstance(block, dict) or block.get("type") not in _THINKING:
        param = f"{place}.redacted_reasoning"
        raise Unsupported("This redacted reasoning is not from the API behind this model.", param=param)
    return block


def _blocks(message: Message, place: str, vision: bool) -> list[dict[str, Any]]:
    content = message.content or ()
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    blocks = []
    for at, part in enumerate(content):
        if isinstance(part, MediaPart):
            blocks.append(_media(part, f"{place}.content[{at}]", vision))
        elif part.text:
            blocks.append({"type": "text", "text": part.text})
    return blocks


def _media(part: MediaPart, param: str, vision: bool) -> dict[str, Any]:
    if isinstance(part, ImagePart) and vision:
        # `detail` says how OpenAI's models should scale the image; there is nothing like it here.
        return {"type": "image", "source": _source(part.data, param)}
    if isinstance(part, FilePart):
        source = _source(part.data, param)
        if source.get("media_type") == "text/plain":
            source = {"type": "text", "media_type": "text/plain", "data": _decoded(source["data"], param)}
        name = part.file.filename
        return {"type": "document", "source": source, **({"title": name} if name else {})}
    raise Unsupported(f"This model does not take parts of type {part.type}.", param=param)


def _source(url: str, param: str) -> dict[str, Any]:
    found = _DATA_URL.fullmatch(url)
    if found is not None:
        return {"type": "base64", "media_type": found[1], "data": found[2]}
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    raise InvalidRequest("It must be a data URL in base64, or a URL of http or https.", param=param)


def _decoded(data: str, param: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest("It is not text in UTF-8, in base64.", param=param) from None
