"""A response, as clients read it: while it is made, and when it has ended."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deployments.http.responses.usage import usage_body
from deployments.http.server.error_response import public_message
from engines.errors import InvalidRequest, Overload, PenstockError
from engines.events import FinishReason, Usage

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

_ENDS: Mapping[FinishReason, tuple[Status, str | None]] = {
    "stop": ("completed", None),
    "tool_calls": ("completed", None),
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
    # Who stopped it knows why; the API has no word for it.
    "cancelled": ("incomplete", None),
}


@dataclass(frozen=True, slots=True)
class End:
    """How a response has ended.

    Attributes:
        status: In a word.
        usage: What it cost; None: nobody knows.
        completed_s: Unix time.
        reason: Why it is incomplete, where the API has a word for it.
        error: Why it failed.
    """

    status: Status
    usage: Usage | None
    completed_s: int
    reason: str | None = None
    error: Mapping[str, Any] | None = None


def end_of(reason: FinishReason, usage: Usage, completed_s: int) -> End:
    """The end of a response, of why its generation ended."""
    status, why = _ENDS[reason]
    return End(status, usage, completed_s, reason=why)


def cancelled(completed_s: int) -> End:
    """The end of a response in the background that its client has cancelled."""
    return End("cancelled", None, completed_s)


def failed_by(error: PenstockError, request_id: str, completed_s: int) -> End:
    """The end of a response that broke off."""
    code = "server_error"
    if isinstance(error, Overload):
        code = "rate_limit_exceeded"
    elif isinstance(error, InvalidRequest):
        code = "invalid_prompt"
    body = {"code": code, "message": public_message(error, request_id)}
    return End("failed", None, completed_s, error=body)


def end_event(status: Status) -> str:
    """The event with which a response of that status ends its stream: for one that was cancelled the API has none."""
    return f"response.{'incomplete' if status == 'cancelled' else status}"


class ResponseObject:
    """Writes one response, again and again: what never changes of it is written once.

    Args:
        id: Its id.
        created_s: Unix time.
        fields: What it was asked for, as the client reads it.

    Attributes:
        id: As given.
        is_stored: Whether it can be read again; may change until its end is told.
    """

    def __init__(self, id: str, created_s: int, fields: Mapping[str, Any], *, is_stored: bool) -> None:
        self.id = id
        self.is_stored = is_stored
        head = {"id": id, "object": "response", "created_at": created_s, **fields}
        self._head = json.dumps(head)[:-1]

    def text(self, output: str, end: End | None = None, *, is_queued: bool = False) -> str:
        """The response, as JSON text.

        Args:
            output: Its items, as JSON texts with commas between them.
            end: How it has ended; None: it has not.
            is_queued: Whether it waits, where it has not ended.
        """
        unended: Status = "queued" if is_queued else "in_progress"
        status = unended if end is None else end.status
        tail: dict[str, Any] = {
            "store": self.is_stored,
            "status": status,
            "completed_at": end.completed_s if end is not None and status == "completed" else None,
            "error": None if end is None else end.error,
            "incomplete_details": {"reason": end.reason} if end is not None and end.reason is not None else None,
            "usage": None if end is None or end.usage is None else usage_body(end.usage),
        }
        return f'{self._head}, "output": [{output}], {json.dumps(tail)[1:]}'
