"""A conversation of content blocks, as the messages that go into a chat template.

Turns that follow one another in one role become one, as Anthropic has it, and as many chat templates ask for. The text
of an answer's blocks is one text again; its thinking and its calls stand beside it. Documents are text.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.http.anthropic.blocks import (
    Block,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    InputMessage,
    PdfSource,
    RedactedThinkingBlock,
    SearchResultBlock,
    TextBlock,
    TextSource,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
)
from deployments.http.server.names import Location
from deployments.http.server.validation import wrong_at
from engines.garbage import CollectorPaused

_Part = tuple[dict[str, Any], Location]


@dataclass(slots=True)
class Conversation:
    """What an engine is given.

    Attributes:
        messages: The messages, as `engines.messages.Message` has them.
        names: Where the caller has what is in them.
        goes_on: Whether the last one is the assistant's, and to be gone on with.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    names: dict[Location, Location | None] = field(default_factory=dict)

    @property
    def goes_on(self) -> bool:
        """Whether the last message is the assistant's, which is then gone on with."""
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"


def conversation_of(
    system: str | Sequence[TextBlock] | None, messages: Sequence[InputMessage], thinking: Mapping[Location, str]
) -> Conversation:
    """The conversation of a request.

    Args:
        system: Its system prompt.
        messages: Its messages.
        thinking: What the model has thought, of each block of thinking, by its place.

    Raises:
        InvalidRequest: A block stands where it does not belong; names it.
    """
    builder = _Builder(thinking)
    if system:
        builder.add_system(system, ("system",))
    with CollectorPaused():
        for index, message in enumerate(messages):
            place: Location = ("messages", index)
            if message.role == "system":
                builder.add_system(_of_text(message.content, place), place)
            elif message.role == "user":
                builder.add_user(message.content, place)
            else:
                builder.add_assistant(message.content, place)
        return builder.done()


class _Builder:
    def __init__(self, thinking: Mapping[Location, str]) -> None:
        self._thinking = thinking
        self._made = Conversation()
        self._parts: list[_Part] = []
        # Of the assistant's message that is being made: what is said and thought in it, and the ids of its calls.
        self._said: list[str] = []
        self._thoughts: list[str] = []
        self._calls: set[str] = set()

    def add_system(self, content: str | Sequence[TextBlock], place: Location) -> None:
        self._end_user()
        parts = content if isinstance(content, str) else [_text(block.text) for block in content]
        self._add({"role": "system", "content": parts}, place)

    def add_user(self, content: str | Sequence[ContentBlock], place: Location) -> None:
        if isinstance(content, str):
            self._parts.append((_text(content), place))
            return
        has_begun = False
        for at, block in enumerate(content):
            here: Location = (*place, "content", at)
            if isinstance(block, ToolResultBlock):
                if has_begun:
                    raise wrong_at(here, "the results of tools stand before everything else in a message.")
                self._add_result(block, here)
            elif isinstance(block, (ToolUseBlock, ThinkingBlock, RedactedThinkingBlock)):
                raise wrong_at(here, f"a block of type {block.type} is the assistant's.")
            else:
                has_begun = True
                self._parts.extend(_parts(block, here))

    def add_assistant(self, content: str | Sequence[ContentBlock], place: Location) -> None:
        self._end_user()
        message = self._assistant(place)
        # Blocks of one answer were one text; messages were not.
        between = "\n" if self._said else ""
        if isinstance(content, str):
            self._said += (between, content)
            return
        for at, block in enumerate(content):
            here: Location = (*place, "content", at)
            match block:
                case TextBlock():
                    self._said += (between, block.text)
                    between = ""
                case ToolUseBlock():
                    self._add_call(message, block, here)
                case ThinkingBlock():
                    self._thoughts.append(self._thinking[here])
                    self._name("reasoning_content", here)
                case RedactedThinkingBlock():
                    message.setdefault("redacted_reasoning", []).append(block.data)
                    self._name("redacted_reasoning", here)
                case _:
                    raise wrong_at(here, f"a block of type {block.type} is the user's.")

    def done(self) -> Conversation:
        self._end_user()
        self._end_assistant()
        made = self._made
        if made.goes_on and made.messages[-1].get("tool_calls"):
            place = made.names["messages", len(made.messages) - 1]
            raise wrong_at(place or (), "after a tool_use comes its tool_result, in a message of the user.")
        return made

    def _add(self, message: dict[str, Any], place: Location) -> None:
        self._end_assistant()
        self._made.names["messages", len(self._made.messages)] = place
        self._made.messages.append(message)

    def _assistant(self, place: Location) -> dict[str, Any]:
        """The assistant's message that is being made; a new one where another spoke last."""
        made = self._made
        if not made.goes_on:
            self._add({"role": "assistant"}, place)
            self._calls = set()
        return made.messages[-1]

    def _end_assistant(self) -> None:
        """What the assistant has said and thought so far belongs to its message."""
        if not self._made.goes_on:
            return
        message = self._made.messages[-1]
        message["content"] = "".join(self._said) or (None if message.get("tool_calls") else "")
        if thought := "\n".join(filter(None, self._thoughts)):
            message["reasoning_content"] = thought
        self._said, self._thoughts = [], []

    def _add_call(self, message: dict[str, Any], block: ToolUseBlock, place: Location) -> None:
        calls = message.setdefault("tool_calls", [])
        self._name("tool_calls", place, len(calls))
        self._name("tool_calls", (*place, "input"), len(calls), "function", "arguments")
        self._name("tool_calls", place, len(calls), "function")
        function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
        calls.append({"id": block.id, "type": "function", "function": function})
        self._calls.add(block.id)

    def _add_result(self, block: ToolResultBlock, place: Location) -> None:
        if block.tool_use_id not in self._calls:
            raise wrong_at((*place, "tool_use_id"), "the message before has no tool_use with this id.")
        self._end_user()
        parts: list[_Part] = []
        if isinstance(block.content, str):
            parts.append((_text(block.content), place))
        else:
            for at, inner in enumerate(block.content or ()):
                parts.extend(_parts(inner, (*place, "content", at)))
        message: dict[str, Any] = {"role": "tool", "tool_call_id": block.tool_use_id, "content": self._content(parts)}
        if block.is_error:
            message["is_error"] = True
        self._add(message, place)

    def _end_user(self) -> None:
        """The parts that the user has said so far become a message."""
        parts, self._parts = self._parts, []
        if parts:
            _, place = parts[0]
            self._add({"role": "user", "content": self._content(parts)}, place[:2])

    def _content(self, parts: Sequence[_Part]) -> str | list[dict[str, Any]]:
        """The content of the message that is added next."""
        made, names = [], self._made.names
        for at, (part, place) in enumerate(parts):
            here: Location = ("messages", len(self._made.messages), "content", at)
            names[here] = place
            if part["type"] != "text":
                source: Location = (*place, "source")
                names[*here, "image_url"] = names[*here, "file"] = source
                names[*here, "image_url", "url"] = (*source, "url" if part.pop("is_url") else "data")
                names[*here, "file", "file_data"] = (*source, "data")
            made.append(part)
        if not made:
            return ""
        # Some chat templates know text alone.
        return made[0]["text"] if len(made) == 1 and made[0]["type"] == "text" else made

    def _name(self, name: str, place: Location, *rest: int | str) -> None:
        """What the caller calls a field of the assistant's message."""
        self._made.names.setdefault(("messages", len(self._made.messages) - 1, name, *rest), place)


def _of_text(content: str | Sequence[ContentBlock], place: Location) -> str | list[TextBlock]:
    """The content of a message that is text alone."""
    if isinstance(content, str):
        return content
    blocks = []
    for at, block in enumerate(content):
        if not isinstance(block, TextBlock):
            raise wrong_at((*place, "content", at), "a system prompt is text only.")
        blocks.append(block)
    return blocks


def _parts(block: Block, place: Location) -> Iterator[_Part]:
    """The parts that a block is to a chat template, and where each of them is."""
    match block:
        case TextBlock():
            yield _text(block.text), place
        case ImageBlock():
            yield _image(block), place
        case SearchResultBlock():
            inside = "\n".join(piece.text for piece in block.content)
            yield _text(f"<search_result>\n{_headed(block.title, block.source)}{inside}\n</search_result>"), place
        case DocumentBlock():
            yield from _document(block, place)


def _document(block: DocumentBlock, place: Location) -> Iterator[_Part]:
    source = block.source
    if isinstance(source, PdfSource):
        file = {"file_data": f"data:{source.media_type};base64,{source.data}", "filename": block.title}
        if block.context:
            yield _text(block.context), place
        yield {"type": "file", "file": {k: v for k, v in file.items() if v is not None}, "is_url": False}, place
        return
    head = f"<document>\n{_headed(block.title, block.context)}"
    if isinstance(source, TextSource) or isinstance(source.content, str):
        text = source.data if isinstance(source, TextSource) else source.content
        yield _text(f"{head}{text}\n</document>"), place
        return
    yield _text(head.rstrip("\n")), place
    for at, inner in enumerate(source.content):
        yield from _parts(inner, (*place, "source", "content", at))
    yield _text("</document>"), place


def _headed(*lines: str | None) -> str:
    """What stands before a document's own text."""
    return "".join(f"{line}\n" for line in lines if line)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(block: ImageBlock) -> dict[str, Any]:
    source = block.source
    is_url = isinstance(source, UrlSource)
    url = source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}, "is_url": is_url}
