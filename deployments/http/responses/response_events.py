"""A streamed response: `response.created`, `response.in_progress`, the events of its items, and its end.

The end is `response.completed`, `response.incomplete` or `response.failed`, each with the whole response. Events have
numbers, from 0, and so have items, in the order in which they begin. A message and reasoning end where something else
begins; a call ends where its engine says so, and calls that an engine says at the same time are open at the same time.
A whole answer is made of the same events, which nobody reads then.
"""

import time
from collections.abc import Awaitable, Callable, Collection
from json import dumps

from deployments.database.database import DatabaseUnavailable
from deployments.http.openai_common.logprobs import token_logprob
from deployments.http.responses.custom_input import CustomInput
from deployments.http.responses.item_events import PREFIXES, EventWriter, ItemStatus, Kind, OutputItem
from deployments.http.responses.reasoning import Thought
from deployments.http.responses.response_object import End, ResponseObject, end_event, end_of, failed_by
from deployments.http.server.stream_format import ChoiceFormat, Extras, StreamFormat, StreamReport
from engines.errors import PenstockError
from engines.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    RedactedReasoning,
    Started,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)

Seal = Callable[[Thought], str]
Keep = Callable[[End], Awaitable[None]]
"""Stores a response that has ended so; raises DatabaseUnavailable where that fails and was asked for."""


class ResponseOutput(ChoiceFormat):
    """The events of a response's items.

    Args:
        id: What the ids of its items are made of.
        custom: Names of the tools that are custom ones.
        seal: Encrypts what was thought.
        encrypts: Whether the client asks for that; what only a provider can read comes no other way.
        keeps_rhythm: Whether the stream is to be written again.

    Attributes:
        writer: Writes the events.
        ended_by: Why it has ended.
    """

    __slots__ = ("_calls", "_custom", "_encrypts", "_id", "_items", "_opened", "_seal", "ended_by", "writer")

    def __init__(
        self, id: str, custom: Collection[str], seal: Seal, *, encrypts: bool, keeps_rhythm: bool = False
    ) -> None:
        self.writer = EventWriter(keeps_rhythm=keeps_rhythm)
        self.ended_by: FinishReason = "stop"
        self._id = id
        self._custom = custom
        self._seal = seal
        self._encrypts = encrypts
        self._items: list[OutputItem] = []
        # The message or the reasoning that is open; and the calls that are, those of custom tools with what reads them.
        self._opened: OutputItem | None = None
        self._calls: dict[int, tuple[OutputItem, CustomInput | None]] = {}

    @property
    def json(self) -> str:
        """The items that have ended, as JSON texts with commas between them."""
        return ",".join([item.json for item in self._items])

    @property
    def items(self) -> list[tuple[str, str]]:
        """The items that have ended: the id of each, and its JSON text."""
        return [(item.id, item.json) for item in self._items]

    def opening(self) -> str:
        """Nothing: the response has begun already."""
        return ""

    def text(self, text: str) -> str:
        """A piece of a message."""
        if not text:
            return ""
        item, begun = self._opened, ""
        if item is None or item.kind != "message":
            item, begun = self._open("message")
        said = item.say(self.writer, text)
        return begun + said if begun else said

    def reasoning(self, text: str) -> str:
        """A piece of reasoning."""
        if not text:
            return ""
        item, begun = self._opened, ""
        if item is None or item.kind != "reasoning":
            item, begun = self._open("reasoning")
        return begun + item.say(self.writer, text)

    def redacted_reasoning(self, data: str) -> str:
        """Reasoning that only its provider can read."""
        closed = self._close("completed")
        item = self._new("reasoning", redacted=self._seal(Thought(redacted=data)))
        return closed + item.begin(self.writer) + item.end(self.writer, "completed")

    def tool_call(self, call: int, id: str, name: str) -> str:
        """The beginning of a call."""
        closed = self._close("completed")
        is_custom = name in self._custom
        item = self._new("custom_tool_call" if is_custom else "function_call", id, name)
        self._calls[call] = item, CustomInput() if is_custom else None
        return closed + item.begin(self.writer)

    def tool_arguments(self, call: int, arguments: str) -> str:
        """A piece of a call's arguments."""
        opened = self._calls.get(call)
        if opened is None:
            # No engine says more of a call that it has ended.
            return ""
        item, reader = opened
        piece = arguments if reader is None else reader.add(arguments)
        return item.say(self.writer, piece) if piece else ""

    def tool_end(self, call: int) -> str:
        """The end of a call."""
        return self._end_call(call, "completed")

    def finish(self, reason: FinishReason, stop_reason: int | str | None, usage: Usage | None) -> str:
        """The end of the items that are open."""
        self.ended_by = reason
        return self.end("completed" if reason in ("stop", "tool_calls") else "incomplete")

    def end(self, status: ItemStatus) -> str:
        """The end of the items that are open, whole or not."""
        return self._close(status) + "".join([self._end_call(call, status) for call in list(self._calls)])

    def with_extras(self, chunk: str, extras: Extras) -> str:
        """The chunk with log probabilities."""
        if extras.logprobs is None or self._opened is None:
            return chunk
        return self._opened.with_logprobs(
            self.writer, chunk, [dumps(token_logprob(token)) for token in extras.logprobs]
        )

    def hear(self, event: Event) -> None:
        """Takes an event of an answer that is not streamed."""
        self.told(event)

    def told(self, event: Event) -> str:
        """What an event of an engine says."""
        match event:
            case TextDelta():
                chunk = self.text(event.text)
                return chunk if not chunk or event.logprobs is None else self.with_extras(chunk, Extras(event.logprobs))
            case ReasoningDelta():
                return self.reasoning(event.text)
            case RedactedReasoning():
                return self.redacted_reasoning(event.data)
            case ToolCallStarted():
                return self.tool_call(event.call, event.id, event.name)
            case ToolCallArgumentsDelta():
                return self.tool_arguments(event.call, event.arguments)
            case ToolCallFinished():
                return self.tool_end(event.call)
            case Finished():
                return self.finish(event.reason, None, None)
            case Started():
                return ""

    def _new(self, kind: Kind, call_id: str = "", name: str = "", redacted: str | None = None) -> OutputItem:
        index = len(self._items)
        item = OutputItem(kind, f"{PREFIXES[kind]}_{self._id}_{index}", index, call_id, name, redacted)
        self._items.append(item)
        return item

    def _open(self, kind: Kind) -> tuple[OutputItem, str]:
        closed = self._close("completed")
        item = self._opened = self._new(kind)
        return item, closed + item.begin(self.writer)

    def _close(self, status: ItemStatus) -> str:
        """The end of the message or the reasoning that is open."""
        item, self._opened = self._opened, None
        if item is None:
            return ""
        encrypted = None
        if self._encrypts and item.kind == "reasoning":
            encrypted = self._seal(Thought("".join(item.said)))
        return item.end(self.writer, status, encrypted)

    def _end_call(self, call: int, status: ItemStatus) -> str:
        ended = self._calls.pop(call, None)
        if ended is None:
            return ""
        item, reader = ended
        rest = "" if reader is None else reader.end()
        said = item.say(self.writer, rest) if rest else ""
        return said + item.end(self.writer, status)


class ResponseStream(StreamFormat):
    """The events of a response that belong to none of its items.

    Args:
        response: The response.
        output: Its items.
        request_id: Id of the request, which an error names.
        keep: Stores the response once it has ended; None: it is not stored.
    """

    __slots__ = ("_end", "_keep", "_output", "_request_id", "_response")

    def __init__(
        self, response: ResponseObject, output: ResponseOutput, *, request_id: str, keep: Keep | None = None
    ) -> None:
        super().__init__(StreamReport())
        self._response = response
        self._output = output
        self._request_id = request_id
        self._keep = keep
        # How it has ended, and the events between that and the last that was said.
        self._end: tuple[End, str] | None = None

    def beginning(self, started: Started) -> str:
        """The response as it is before anything was said."""
        response = f'"response":{self._response.text("")}'
        writer = self._output.writer
        return writer.event("response.created", response) + writer.event("response.in_progress", response)

    async def before_end(self, usage: Usage, error: PenstockError | None) -> None:
        """Stores the response, so that whoever has read its end finds it.

        Raises:
            DatabaseUnavailable: It could not be stored, and its client has asked for that.
        """
        end, _ = self._end = self._broken(error) if error is not None else self._whole(usage)
        if self._keep is None:
            return
        try:
            await self._keep(end)
        except DatabaseUnavailable:
            if error is None:
                # It has failed after all.
                self._end = None
                raise

    def ending(self, usage: Usage) -> str:
        """The whole response."""
        return self._last(self._end or self._whole(usage))

    def failure(self, error: PenstockError) -> str:
        """What was said by then, and why there is no more."""
        return self._last(self._end or self._broken(error))

    def _whole(self, usage: Usage) -> tuple[End, str]:
        return end_of(self._output.ended_by, usage, int(time.time())), ""

    def _broken(self, error: PenstockError) -> tuple[End, str]:
        ended = self._output.end("incomplete")
        return failed_by(error, self._request_id, int(time.time())), ended

    def _last(self, ended: tuple[End, str]) -> str:
        end, events = ended
        response = f'"response":{self._response.text(self._output.json, end)}'
        return events + self._output.writer.event(end_event(end.status), response)
