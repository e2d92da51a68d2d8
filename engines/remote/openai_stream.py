"""The stream of OpenAI's API, as our events."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from engines.errors import InstanceLost, StreamIncomplete
from engines.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    RedactedReasoning,
    TextDelta,
    TokenLogprob,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from engines.remote.failures import Asked, json_event
from engines.remote.json_fields import as_count, as_dict, as_list, as_str, is_json
from engines.remote.openai_content import text_and_thinking, text_of
from engines.remote.openai_logprobs import chat_logprobs, completion_logprobs
from engines.remote.sse import MalformedStream, ServerSentEvent
from engines.requests import GenerateRequest

_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_BROKEN = ("abort", "error", "cancelled")
MAX_CALLS = 1024


class _Call:
    """A tool call under way: nothing is said of it before its name is known.

    Attributes:
        id, name: As far as they have come.
        arguments: Their pieces so far.
        is_open: Whether it was said that it began.
    """

    __slots__ = ("arguments", "id", "is_open", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.is_open = False


class _Choice:
    """A choice under way."""

    __slots__ = ("calls", "is_refusal", "numbers", "reason", "said", "stop_reason")

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.numbers: dict[Any, int] = {}
        self.reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.is_refusal = False
        self.said = False


class OpenAIStreamReader:
    """Reads the chunks of a chat completion or of a text completion.

    A refusal in OpenAI's sense, text in place of the answer, is text that ends with `content_filter`.

    Args:
        request: What was asked.
        asked: The same, for errors.
    """

    def __init__(self, request: GenerateRequest, asked: Asked) -> None:
        self._usage: Usage | None = None
        self._generated = 0
        self._asked = asked
        self._is_chat = request.messages is not None
        self._tells_reasoning = request.include_reasoning
        self._most = request.sampling.logprobs or 0
        self._choices = [_Choice() for _ in range(request.sampling.n)]

    @property
    def usage(self) -> Usage:
        """The tokens that the server told of at the end; until then those whose ids it told."""
        return self._usage if self._usage is not None else Usage(completion_tokens=self._generated)

    def read(self, event: ServerSentEvent) -> list[Event]:
        """Our events of one of theirs.

        Raises:
            PenstockError: It is an error.
            MalformedStream: It is nothing that this API has.
        """
        if event.data == "[DONE]":
            return [*self._close(), self._finished()]
        chunk = json_event(event, "a chunk", self._asked)
        self._count(chunk.get("usage"))
        events: list[Event] = []
        for theirs in as_list(chunk.get("choices")):
            events.extend(self._choice(as_dict(theirs)))
        return events

    def end(self) -> Finished | None:
        """The end of the answer where every choice has said why it ended; None where it was not complete."""
        return self._finished() if all(choice.reason is not None for choice in self._choices) else None

    def _close(self) -> Iterator[Event]:
        """Ends the choices that have not said why they ended: some servers mark the end of the stream only."""
        for index, choice in enumerate(self._choices):
            if choice.reason is None:
                if not choice.said:
                    raise StreamIncomplete("The server ended the stream before it answered.")
                yield from self._end_choice(choice, index, "stop")

    def _finished(self) -> Finished:
        return Finished(
            tuple(choice.reason or "stop" for choice in self._choices),
            self.usage,
            self._asked.engine,
            tuple(choice.stop_reason for choice in self._choices),
        )

    def _choice(self, theirs: Mapping[str, Any]) -> Iterator[Event]:
        index = as_count(theirs.get("index"))
        if index >= len(self._choices):
            raise MalformedStream("there are more choices than were asked for")
        choice = self._choices[index]
        token_ids = tuple(map(as_count, as_list(theirs.get("token_ids"))))
        self._generated += len(token_ids)
        if self._is_chat:
            delta = as_dict(theirs.get("delta"))
            logprobs = chat_logprobs(theirs.get("logprobs"), token_ids, self._most)
            text, thinking = text_and_thinking(delta.get("content"))
            refusal = text_of(delta.get("refusal"))
            choice.is_refusal = choice.is_refusal or bool(refusal)
            text += refusal
            events = list(self._reasoning(delta, thinking, index))
            calls = list(self._calls(delta, choice, index))
        else:
            logprobs = completion_logprobs(theirs.get("logprobs"), token_ids, self._most)
            text = text_of(theirs.get("text"))
            events, calls = [], []
        if text:
            events.append(TextDelta(text, index))
        events.extend(calls)
        if token_ids or logprobs:
            events = _carrying(events, index, token_ids, logprobs)
        choice.said = choice.said or bool(events)
        yield from events
        reason = as_str(theirs.get("finish_reason"))
        if reason:
            yield from self._end_choice(choice, index, reason)
        stop_reason = theirs.get("stop_reason")
        if isinstance(stop_reason, int | str):
            choice.stop_reason = stop_reason

    def _reasoning(self, delta: Mapping[str, Any], thinking: str, index: int) -> Iterator[Event]:
        # Some servers say it under both names.
        text = as_str(delta.get("reasoning_content")) or as_str(delta.get("reasoning")) or thinking
        if self._tells_reasoning:
            if text:
                yield ReasoningDelta(text, index)
            if redacted := as_str(delta.get("redacted_reasoning")):
                yield RedactedReasoning(redacted, index)

    def _calls(self, delta: Mapping[str, Any], choice: _Choice, index: int) -> Iterator[Event]:
        for theirs in as_list(delta.get("tool_calls")):
            piece = as_dict(theirs)
            function = as_dict(piece.get("function"))
            number = self._number(piece, choice)
            call = choice.calls[number]
            call.id = call.id or as_str(piece.get("id"))
            arguments = as_str(function.get("arguments"))
            call.arguments.append(arguments)
            if not call.is_open:
                call.name = as_str(function.get("name"))
                if not call.name:
                    continue
                call.is_open = True
                call.id = call.id or f"call_{uuid.uuid4().hex}"
                arguments = "".join(call.arguments)
                yield ToolCallStarted(number, call.id, call.name, index)
            if arguments:
                yield ToolCallArgumentsDelta(number, arguments, index)

    def _number(self, piece: Mapping[str, Any], choice: _Choice) -> int:
        """Which call of its choice a piece belongs to, in the order in which they began."""
        theirs = piece.get("index")
        if theirs is None:
            # Servers that send whole calls need no index; what has neither index nor id goes on with the last one.
            theirs = as_str(piece.get("id"))
            if not theirs and choice.calls:
                return len(choice.calls) - 1
        if not isinstance(theirs, int | str):
            raise MalformedStream("a tool call has no number")
        number = choice.numbers.get(theirs)
        if number is None:
            if len(choice.calls) >= MAX_CALLS:
                raise MalformedStream(f"there are more than {MAX_CALLS} tool calls")
            number = choice.numbers[theirs] = len(choice.calls)
            choice.calls.append(_Call())
        return number

    def _end_choice(self, choice: _Choice, index: int, reason: str) -> Iterator[Event]:
        if choice.reason is not None:
            return
        if reason in _BROKEN:
            raise InstanceLost(f"The server gave up the answer ({reason}).", instance=self._asked.engine)
        choice.reason = "content_filter" if choice.is_refusal else _REASONS.get(reason, "stop")
        # A call that was asked for by name ends with `stop` in OpenAI's API.
        if choice.calls and choice.reason == "stop":
            choice.reason = "tool_calls"
        for number, call in enumerate(choice.calls):
            if not call.is_open:
                raise MalformedStream("a tool call has no name")
            arguments = "".join(call.arguments)
            if choice.reason == "tool_calls":
                if not arguments:
                    # All the pieces together must be JSON, also where there are none.
                    yield ToolCallArgumentsDelta(number, "{}", index)
                yield ToolCallFinished(number, index)
            elif is_json(arguments):
                yield ToolCallFinished(number, index)  # Another call, or the text after it, was cut off.

    def _count(self, theirs: Any) -> None:
        if isinstance(theirs, dict):
            prompt = as_dict(theirs.get("prompt_tokens_details"))
            self._usage = Usage(
                prompt_tokens=as_count(theirs.get("prompt_tokens")),
                completion_tokens=as_count(theirs.get("completion_tokens")),
                cached_tokens=as_count(prompt.get("cached_tokens")),
                cache_write_tokens=as_count(prompt.get("cache_write_tokens")),
                reasoning_tokens=as_count(as_dict(theirs.get("completion_tokens_details")).get("reasoning_tokens")),
            )


def _carrying(
    events: list[Event], index: int, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprob, ...] | None
) -> list[Event]:
    """The events of one chunk, the last of which carries its tokens. Those of tool calls have no log probabilities."""
    last = events[-1] if events else None
    match last:
        case TextDelta() | ReasoningDelta():
            carrier: Event = replace(last, token_ids=token_ids, logprobs=logprobs)
        case ToolCallStarted() | ToolCallArgumentsDelta() | ToolCallFinished():
            carrier = replace(last, token_ids=token_ids)
        case _:
            return [*events, TextDelta("", index, token_ids, logprobs)]
    return [*events[:-1], carrier]
