"""One response of a session: the events of its turn, as clients read them."""

from collections.abc import Callable
from typing import Any, Protocol

from deployments.http.realtime.items import written
from engines.conversation.events import TurnDelta, TurnFailed, TurnFinished
from engines.events import TextDelta, ToolCallArgumentsDelta, ToolCallFinished, ToolCallStarted, Usage
from engines.messages import FunctionCall, Message, ToolCall

_OPEN = "in_progress"
_STATUSES = {"cancelled": "cancelled", "length": "incomplete", "content_filter": "incomplete"}
_REASONS = {"cancelled": "client_cancelled", "length": "max_output_tokens", "content_filter": "content_filter"}


class Send(Protocol):
    """Sends a server event: its type, and its fields."""

    def __call__(self, type: str, /, **fields: Any) -> None:
        """Sends it."""


class _Output:
    """An item of the answer that is being given."""

    __slots__ = ("call", "id", "index", "name", "pieces", "status")

    def __init__(self, id: str, index: int, call: str | None = None, name: str = "") -> None:
        self.id = id
        self.index = index
        self.call = call
        self.name = name
        self.pieces: list[str] = []
        self.status = _OPEN

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def item(self) -> dict[str, Any]:
        if self.call is None:
            message = Message(role="assistant", content=self.text)
        else:
            function = FunctionCall(name=self.name, arguments=self.text)
            message = Message(role="assistant", tool_calls=[ToolCall(id=self.call, function=function)])
        return written(self.id, message, self.status)


class Response:
    """Writes one.

    Args:
        id: Its id, which is its turn's name.
        send: Sends an event.
        fields: What it says of itself besides: the session's conversation, metadata, and so on.
        previous: The id of the item in front of its first one; not asked where it stands outside of the conversation.
        aside: Whether it does.
    """

    def __init__(
        self, id: str, send: Send, fields: dict[str, Any], previous: Callable[[], str | None], *, aside: bool
    ) -> None:
        self.id = id
        self.aside = aside
        self._send = send
        self._fields = fields
        self._previous = previous
        self._outputs: dict[str, _Output] = {}

    def begin(self) -> None:
        """It was asked for."""
        self._send("response.created", response=self._written(_OPEN, [], None, None))

    def add(self, event: TurnDelta) -> None:
        """Takes the next piece."""
        delta = event.delta
        match delta:
            case TextDelta():
                if not delta.text:
                    return
                output = self._outputs.get(event.item)
                if output is None:
                    output = self._open(_Output(event.item, len(self._outputs)))
                    part = {"type": "text", "text": ""}
                    self._send_of(output, "response.content_part.added", content_index=0, part=part)
                output.pieces.append(delta.text)
                self._send_of(output, "response.output_text.delta", content_index=0, delta=delta.text)
            case ToolCallStarted():
                self._open(_Output(event.item, len(self._outputs), delta.id, delta.name))
            case ToolCallArgumentsDelta():
                output = self._outputs[event.item]
                output.pieces.append(delta.arguments)
                self._send_of(
                    output, "response.function_call_arguments.delta", call_id=output.call, delta=delta.arguments
                )
            case ToolCallFinished():
                self._close(self._outputs[event.item], "completed")
            case _:
                # Reasoning is not told: this API has no events for it.
                pass

    def end(self, event: TurnFinished | TurnFailed) -> None:
        """It has ended."""
        if isinstance(event, TurnFailed):
            error = {"type": event.error.kind, "code": event.error.code, "message": event.error.public}
            status, usage = "failed", None
            details: dict[str, Any] = {"type": status, "error": error}
        else:
            status, usage = _STATUSES.get(event.reason, "completed"), event.usage
            details = {"type": status}
            if event.reason in _REASONS:
                details["reason"] = _REASONS[event.reason]
        for output in self._outputs.values():
            # What is still open was cut off, unless this is the answer's own end.
            self._close(output, "completed" if status == "completed" else "incomplete")
        items = [output.item() for output in self._outputs.values()]
        self._send("response.done", response=self._written(status, items, details, usage))

    def _open(self, output: _Output) -> _Output:
        for before in self._outputs.values():
            if before.call is None:
                self._close(before, "completed")
        previous = next(reversed(self._outputs), None) or (None if self.aside else self._previous())
        self._outputs[output.id] = output
        item = output.item()
        self._send("response.output_item.added", response_id=self.id, output_index=output.index, item=item)
        if not self.aside:
            self._send("conversation.item.added", previous_item_id=previous, item=item)
        return output

    def _close(self, output: _Output, status: str) -> None:
        if output.status != _OPEN:
            return
        output.status = status
        if output.call is None:
            self._send_of(output, "response.output_text.done", content_index=0, text=output.text)
            part = {"type": "text", "text": output.text}
            self._send_of(output, "response.content_part.done", content_index=0, part=part)
        else:
            self._send_of(
                output,
                "response.function_call_arguments.done",
                call_id=output.call,
                name=output.name,
                arguments=output.text,
            )
        item = output.item()
        if not self.aside:
            self._send("conversation.item.done", item=item)
        self._send("response.output_item.done", response_id=self.id, output_index=output.index, item=item)

    def _send_of(self, output: _Output, type: str, **fields: Any) -> None:
        self._send(type, response_id=self.id, item_id=output.id, output_index=output.index, **fields)

    def _written(
        self, status: str, items: list[dict[str, Any]], details: dict[str, Any] | None, usage: Usage | None
    ) -> dict[str, Any]:
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": items,
            "output_modalities": ["text"],
            "usage": None if usage is None else usage_written(usage),
            **self._fields,
        }


def usage_written(usage: Usage) -> dict[str, Any]:
    """Usage as clients read it."""
    cached = {"text_tokens": usage.cached_tokens, "audio_tokens": 0, "image_tokens": 0}
    return {
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "input_token_details": {
            "cached_tokens": usage.cached_tokens,
            "text_tokens": usage.prompt_tokens,
            "audio_tokens": 0,
            "image_tokens": 0,
            "cached_tokens_details": cached,
        },
        "output_token_details": {"text_tokens": usage.completion_tokens, "audio_tokens": 0},
    }
