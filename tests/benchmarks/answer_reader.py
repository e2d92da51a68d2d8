"""Reads one streamed chat completion off a connection, cheaply.

A load client that parses every chunk costs more CPU per token than the servers it measures. This one undoes HTTP's
chunking, counts SSE events, and parses only those that it must understand: the ones up to the first output, and the
ones at the end, with the usage and `[DONE]`.
"""

import json
from typing import Any

_EVENT_END = b"\n\n"
_DATA = b"data:"
_DONE = b"[DONE]"
# What marks an event that must be parsed, once output has begun.
_SPECIAL = (b'"completion_tokens"', _DONE, b'"error"')


class BadAnswer(Exception):
    """The answer is not a complete and correct stream."""


class AnswerReader:
    """Takes the bytes of one HTTP response, as they come.

    Attributes:
        done: The response is complete.
        events: SSE events so far, whatever they said.
        first_s: When the first output came, on the clock of the caller; None before.
        arrivals_s: When each read that brought output (or the choice's end) came.
        completion_tokens: As the usage says; None before.
        prompt_tokens: As the usage says; None before.
    """

    __slots__ = (
        "_body",
        "_done_seen",
        "_head_read",
        "_raw",
        "arrivals_s",
        "completion_tokens",
        "done",
        "events",
        "first_s",
        "prompt_tokens",
    )

    def __init__(self) -> None:
        self.done = False
        self.events = 0
        self.first_s: float | None = None
        self.arrivals_s: list[float] = []
        self.completion_tokens: int | None = None
        self.prompt_tokens: int | None = None
        self._head_read = False
        self._done_seen = False
        self._raw = b""
        self._body = b""

    def feed(self, data: bytes, now_s: float) -> None:
        """Takes what the socket gave.

        Raises:
            BadAnswer: The response is an error, malformed, or says too much.
        """
        if self.done:
            raise BadAnswer(f"the server sent more than its answer: {data[:200]!r}")
        raw = self._raw + data if self._raw else data
        if not self._head_read:
            head, end, raw = raw.partition(b"\r\n\r\n")
            if not end:
                self._raw = head
                return
            _check_head(head, raw)
            self._head_read = True
        body = self._unchunk(raw)
        if body:
            self._take(body, now_s)
        if self.done:
            self._check_end()

    def check_tokens(self, expected: int) -> None:
        """Checks the finished answer's usage.

        Raises:
            BadAnswer: It has another number of tokens, or no output.
        """
        if self.completion_tokens != expected:
            raise BadAnswer(f"the answer has {self.completion_tokens} tokens by its usage, not {expected}")
        if self.first_s is None:
            raise BadAnswer("the answer has no output")

    def _unchunk(self, raw: bytes) -> bytes:
        parts: list[bytes] = []
        position = 0
        length = len(raw)
        while True:
            line_end = raw.find(b"\r\n", position)
            if line_end < 0:
                break
            size_text = raw[position:line_end]
            try:
                size = int(size_text, 16)
            except ValueError:
                raise BadAnswer(f"not the size of a chunk: {size_text[:40]!r}") from None
            start = line_end + 2
            end = start + size
            if length < end + 2:
                break
            position = end + 2
            if size == 0:
                self.done = True
                break
            parts.append(raw[start:end])
        self._raw = raw[position:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, body: bytes, now_s: float) -> None:
        if self._body:
            body = self._body + body
        cut = body.rfind(_EVENT_END)
        if cut < 0:
            self._body = body
            return
        self._body = body[cut + 2 :]
        complete = body[: cut + 2] if self._body else body
        self.events += complete.count(_EVENT_END)
        if self.first_s is not None and not any(mark in complete for mark in _SPECIAL):
            self.arrivals_s.append(now_s)
            return
        output = False
        for event in complete.split(_EVENT_END):
            if event.startswith(_DATA):
                output = self._parse(event[len(_DATA) :].strip()) or output
        if output:
            self.arrivals_s.append(now_s)
            if self.first_s is None:
                self.first_s = now_s

    def _parse(self, data: bytes) -> bool:
        """Reads one event; says whether it brought output."""
        if self._done_seen:
            raise BadAnswer(f"an event after [DONE]: {data[:200]!r}")
        if data == _DONE:
            self._done_seen = True
            return False
        chunk: dict[str, Any] = json.loads(data)
        if chunk.get("error"):
            raise BadAnswer(f"the stream failed: {data[:500]!r}")
        usage = chunk.get("usage")
        if usage:
            self.completion_tokens = usage["completion_tokens"]
            self.prompt_tokens = usage["prompt_tokens"]
        return any(_says_something(choice.get("delta") or {}) for choice in chunk.get("choices", ()))

    def _check_end(self) -> None:
        if self._raw or self._body:
            raise BadAnswer(f"the stream ended inside an event: {(self._body or self._raw)[:200]!r}")
        if not self._done_seen:
            raise BadAnswer("the stream ended without [DONE]")


def _says_something(delta: dict[str, Any]) -> bool:
    return bool(
        delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content") or delta.get("tool_calls")
    )


def _check_head(head: bytes, rest: bytes) -> None:
    status, _, fields = head.partition(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        raise BadAnswer(f"status {status.decode('latin-1')!r}: {rest[:500].decode('utf-8', 'replace')}")
    names = {line.partition(b":")[0].strip().lower(): line.partition(b":")[2] for line in fields.split(b"\r\n")}
    if names.get(b"transfer-encoding", b"").strip().lower() != b"chunked":
        raise BadAnswer("the answer is not sent in chunks")
