"""A conversation of items, as the messages that go into a chat template.

What the model has thought, said and called between two items of others was one answer, and is one message of the
assistant's again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.http.responses.items import (
    CompactionItem,
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputFile,
    InputImage,
    InputPart,
    InputText,
    MessageItem,
    OutputText,
    Part,
    ReasoningItem,
    SaidItem,
)
from deployments.http.responses.reasoning import Thought
from deployments.http.responses.tools import INPUT
from deployments.http.server.json_guard import check_texts
from deployments.http.server.names import Location, notation
from deployments.http.server.validation import wrong_at
from engines.garbage import CollectorPaused

_IN_SHORT = "The conversation so far, as you have summarized it:"


@dataclass(slots=True)
class Conversation:
    """What an engine is given.

    Attributes:
        messages: The messages, as `engines.messages.Message` has them.
        names: Where the caller has what is in them.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    names: dict[Location, Location | None] = field(default_factory=dict)


def conversation_of(
    instructions: str | None, items: Sequence[tuple[SaidItem, Location]], thoughts: Mapping[int, Thought]
) -> Conversation:
    """The conversation of a request.

    Args:
        instructions: What goes before it; None: nothing.
        items: What was said, each with where the caller has it.
        thoughts: What was thought, of each item of reasoning, by its index; and so each conversation in short.

    Raises:
        InvalidRequest: An item stands where it does not belong; names it.
    """
    # Their guard has seen one string there, whatever it holds.
    check_texts(
        [
            (notation((*place, "arguments")) or "", item.arguments)
            for item, place in items
            if isinstance(item, FunctionCallItem)
        ]
    )
    builder = _Builder()
    if instructions:
        builder.add({"role": "system", "content": instructions}, ("instructions",))
    with CollectorPaused():
        for index, (item, place) in enumerate(items):
            builder.add_item(item, place, thoughts.get(index))
        return builder.done()


class _Builder:
    def __init__(self) -> None:
        self._made = Conversation()
        # Of the assistant's message that is being made: what is said and thought in it.
        self._is_answering = False
        self._said: list[str] = []
        self._thoughts: list[str] = []
        # Where calls are whose output has not come, by their ids.
        self._open: dict[str, Location] = {}

    def add(self, message: dict[str, Any], place: Location) -> None:
        """Adds a message."""
        self._end_answer()
        self._made.names["messages", len(self._made.messages)] = place
        self._made.messages.append(message)

    def add_item(self, item: SaidItem, place: Location, thought: Thought | None) -> None:
        """Adds what an item says."""
        match item:
            case MessageItem(role="assistant"):
                self._answer(place)
                self._said.append(_said(item, place))
            case MessageItem():
                content = self._content(item.content, (*place, "content"))
                self.add({"role": item.role, "content": content}, place)
            case CompactionItem():
                assert thought is not None
                self.add({"role": "user", "content": f"{_IN_SHORT}\n\n{thought.text}"}, place)
            case ReasoningItem():
                assert thought is not None
                self._think(thought, place)
            case FunctionCallItem():
                self._call(item.call_id, item.name, item.arguments, (*place, "arguments"), place)
            case CustomToolCallItem():
                arguments = json.dumps({INPUT: item.input}, ensure_ascii=False)
                self._call(item.call_id, item.name, arguments, (*place, "input"), place)
            case FunctionCallOutputItem() | CustomToolCallOutputItem():
                if self._open.pop(item.call_id, None) is None:
                    why = f"no call before this has the id {item.call_id[:80]!r}, or it has its output already."
                    raise wrong_at((*place, "call_id"), why)
                content = self._content(item.output, (*place, "output"))
                self.add({"role": "tool", "tool_call_id": item.call_id, "content": content}, place)

    def done(self) -> Conversation:
        """All of it."""
        self._end_answer()
        if self._open:
            id, place = next(iter(self._open.items()))
            raise wrong_at(place, f"the call {id[:80]!r} has no output; send it after the call.")
        return self._made

    def _answer(self, place: Location) -> dict[str, Any]:
        """The assistant's message that is being made; a new one where another spoke last."""
        if not self._is_answering:
            self.add({"role": "assistant"}, place)
            self._is_answering = True
        return self._made.messages[-1]

    def _end_answer(self) -> None:
        """What the assistant has said and thought so far belongs to its message."""
        if not self._is_answering:
            return
        self._is_answering = False
        message = self._made.messages[-1]
        message["content"] = "\n".join(self._said) if self._said else None if message.get("tool_calls") else ""
        if thought := "\n".join(filter(None, self._thoughts)):
            message["reasoning_content"] = thought
        self._said, self._thoughts = [], []

    def _think(self, thought: Thought, place: Location) -> None:
        message = self._answer(place)
        if thought.redacted is None:
            self._thoughts.append(thought.text)
            self._name("reasoning_content", place)
        else:
            message.setdefault("redacted_reasoning", []).append(thought.redacted)
            self._name("redacted_reasoning", place)

    def _call(self, id: str, name: str, arguments: str, said: Location, place: Location) -> None:
        if id in self._open:
            raise wrong_at((*place, "call_id"), f"another call has the id {id[:80]!r}, too.")
        self._open[id] = place
        calls = self._answer(place).setdefault("tool_calls", [])
        self._name("tool_calls", place, len(calls))
        self._name("tool_calls", said, len(calls), "function", "arguments")
        self._name("tool_calls", place, len(calls), "function")
        calls.append({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})

    def _content(self, content: str | Sequence[Part | InputPart], place: Location) -> str | list[dict[str, Any]]:
        """The content of the message that is added next."""
        if isinstance(content, str):
            return content
        made: list[dict[str, Any]] = []
        names = self._made.names
        for at, part in enumerate(content):
            theirs: Location = (*place, at)
            here: Location = ("messages", len(self._made.messages), "content", at)
            names[here] = theirs
            match part:
                case InputText():
                    made.append({"type": "text", "text": part.text})
                case InputImage():
                    image = {"url": part.image_url, "detail": None if part.detail == "original" else part.detail}
                    made.append({"type": "image_url", "image_url": image})
                    names[*here, "image_url"] = names[*here, "image_url", "url"] = (*theirs, "image_url")
                case InputFile():
                    file = {"file_data": part.file_data, "filename": part.filename}
                    made.append({"type": "file", "file": file})
                    names[*here, "file"] = names[*here, "file", "file_data"] = (*theirs, "file_data")
                case _:
                    raise wrong_at(theirs, f"what is of type {part.type} is the assistant's.")
        if not made:
            return ""
        # Some chat templates know text alone.
        return made[0]["text"] if len(made) == 1 and made[0]["type"] == "text" else made

    def _name(self, name: str, place: Location, *rest: int | str) -> None:
        """What the caller calls a field of the assistant's message."""
        self._made.names.setdefault(("messages", len(self._made.messages) - 1, name, *rest), place)


def _said(item: MessageItem, place: Location) -> str:
    """What the assistant has said in a message."""
    if isinstance(item.content, str):
        return item.content
    pieces = []
    for at, part in enumerate(item.content):
        match part:
            case OutputText() | InputText():
                pieces.append(part.text)
            case InputImage() | InputFile():
                raise wrong_at((*place, "content", at), f"what is of type {part.type} is not the assistant's.")
            case _:
                pieces.append(part.refusal)
    return "".join(pieces)
