"""One item of an output: its JSON text, and the events by which a stream says it.

    a message:      output_item.added, content_part.added, output_text.delta ..., output_text.done, content_part.done,
                    output_item.done
    reasoning:      the same with reasoning_text; what only its provider can read has no content, and no events of it
    a call:         output_item.added, function_call_arguments.delta ..., function_call_arguments.done, output_item.done
    a custom one:   the same with custom_tool_call_input

The constant part of a delta is put together once per item, and what was said is escaped once, wherever it is written.
All is ASCII text.
"""

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Literal

Kind = Literal["message", "reasoning", "function_call", "custom_tool_call"]
ItemStatus = Literal["completed", "incomplete"]

BEGIN, END, LOGPROBS = -1, -2, -3
"""Words of a rhythm, beside the numbers of items."""
PREFIXES: dict[Kind, str] = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
"""How the ids of items begin."""
_DELTAS: dict[Kind, str] = {
    "message": "response.output_text.delta",
    "reasoning": "response.reasoning_text.delta",
    "function_call": "response.function_call_arguments.delta",
    "custom_tool_call": "response.custom_tool_call_input.delta",
}


class EventWriter:
    """Writes the events of one stream, with their numbers.

    Args:
        keeps_rhythm: Whether it is noted which events there are.

    Attributes:
        sequence: The number of the next one.
        rhythm: Which events there are of items, so that they can be written again (`rhythm`): for each that begins
            BEGIN; for each piece its item and its characters, with LOGPROBS and a number of tokens before it where
            it has any; for each that ends END and its item. None: that is not noted.
    """

    __slots__ = ("rhythm", "sequence")

    def __init__(self, *, keeps_rhythm: bool = False) -> None:
        self.sequence = 0
        self.rhythm: list[int] | None = [] if keeps_rhythm else None

    def event(self, name: str, fields: str) -> str:
        """An event, of its name and its fields as JSON text without braces."""
        number = self.sequence
        self.sequence = number + 1
        return f'event: {name}\ndata: {{"type":"{name}",{fields},"sequence_number":{number}}}\n\n'


class OutputItem:
    """An item.

    Args:
        kind: What it is.
        id: Its id, of letters, digits and underscores.
        index: Its place in the output.
        call_id: Of a call.
        name: Of the tool that it calls.
        redacted: Of reasoning that only its provider can read: that, encrypted.

    Attributes:
        kind: As given.
        id: As given.
        index: As given.
        said: The pieces of its text so far.
        json: The whole item, once it has ended.
    """

    __slots__ = (
        "_at",
        "_call_id",
        "_delta",
        "_logprobs",
        "_name",
        "_redacted",
        "_tail",
        "id",
        "index",
        "json",
        "kind",
        "said",
    )

    def __init__(
        self, kind: Kind, id: str, index: int, call_id: str = "", name: str = "", redacted: str | None = None
    ) -> None:
        self.kind = kind
        self.index = index
        self._call_id = call_id
        self._name = name
        self.said: list[str] = []
        self.json = ""
        self.id = id
        self._redacted = redacted
        self._logprobs: list[str] = []
        self._at = f'"item_id":"{id}","output_index":{index}'
        if kind in ("message", "reasoning"):
            self._at += ',"content_index":0'
        self._delta = f'event: {_DELTAS[kind]}\ndata: {{"type":"{_DELTAS[kind]}",{self._at},"delta":'
        self._tail = ',"logprobs":[],"sequence_number":' if kind == "message" else ',"sequence_number":'

    def begin(self, writer: EventWriter) -> str:
        """The events that begin it."""
        if writer.rhythm is not None:
            writer.rhythm.append(BEGIN)
        item = self._item("in_progress", "", '""', None)
        added = writer.event("response.output_item.added", f'"output_index":{self.index},"item":{item}')
        if self._has_content:
            added += writer.event("response.content_part.added", f'{self._at},"part":{self._part(quoted(""), "")}')
        return added

    def say(self, writer: EventWriter, text: str) -> str:
        """The event that says a piece of its text."""
        self.said.append(text)
        if writer.rhythm is not None:
            writer.rhythm += (self.index, len(text))
        number = writer.sequence
        writer.sequence = number + 1
        return f"{self._delta}{quoted(text)}{self._tail}{number}}}\n\n"

    def with_logprobs(self, writer: EventWriter, event: str, logprobs: Sequence[str]) -> str:
        """The event of the last piece of a message, with the log probabilities of its tokens, each as JSON text."""
        if writer.rhythm is not None:
            writer.rhythm[-2:-2] = (LOGPROBS, len(logprobs))
        self._logprobs += logprobs
        head, _, tail = event.rpartition('"logprobs":[]')
        return f'{head}"logprobs":[{",".join(logprobs)}]{tail}'

    def end(self, writer: EventWriter, status: ItemStatus, encrypted: str | None = None) -> str:
        """The events that end it.

        Args:
            writer: Writes them.
            status: Whether all of it was said.
            encrypted: Of reasoning: the same, encrypted; None: it is not asked for.
        """
        if writer.rhythm is not None:
            writer.rhythm += (END, self.index)
        text, logprobs = quoted("".join(self.said)), ",".join(self._logprobs)
        part = self._part(text, logprobs)
        self.json = self._item(status, part if self._has_content else "", text, self._redacted or encrypted)
        match self.kind:
            case "message":
                done = writer.event("response.output_text.done", f'{self._at},"text":{text},"logprobs":[{logprobs}]')
            case "reasoning" if self._redacted is None:
                done = writer.event("response.reasoning_text.done", f'{self._at},"text":{text}')
            case "function_call":
                name = f'"name":{quoted(self._name)}'
                done = writer.event("response.function_call_arguments.done", f'{self._at},{name},"arguments":{text}')
            case "custom_tool_call":
                done = writer.event("response.custom_tool_call_input.done", f'{self._at},"input":{text}')
            case _:
                done = ""
        if self._has_content:
            done += writer.event("response.content_part.done", f'{self._at},"part":{part}')
        return done + writer.event("response.output_item.done", f'"output_index":{self.index},"item":{self.json}')

    @property
    def _has_content(self) -> bool:
        return self.kind == "message" or (self.kind == "reasoning" and self._redacted is None)

    def _part(self, text: str, logprobs: str) -> str:
        """Its one piece of content, as JSON text."""
        if self.kind == "message":
            return f'{{"type":"output_text","annotations":[],"logprobs":[{logprobs}],"text":{text}}}'
        return f'{{"type":"reasoning_text","text":{text}}}'

    def _item(self, status: str, content: str, text: str, encrypted: str | None) -> str:
        """All of it, as JSON text."""
        head = f'{{"id":"{self.id}","type":"{self.kind}","status":"{status}"'
        match self.kind:
            case "message":
                return f'{head},"role":"assistant","content":[{content}]}}'
            case "reasoning":
                sealed = "null" if encrypted is None else f'"{encrypted}"'
                return f'{head},"summary":[],"content":[{content}],"encrypted_content":{sealed}}}'
            case kind:
                said = "arguments" if kind == "function_call" else "input"
                called = f'"call_id":{quoted(self._call_id)},"name":{quoted(self._name)}'
                return f'{head},{called},"{said}":{text}}}'
