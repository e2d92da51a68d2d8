"""The access log: a line of JSON for each request, of who asked what and what became of it. No content, and no key.

Lines are written beside the event loop; where the disk is too slow for them, or somebody floods the server with what it
refuses, some are left out, and the next one says how many.
"""

import json
import logging
import os
import queue
import sys
import time
from datetime import UTC, datetime
from logging.handlers import QueueListener, WatchedFileHandler
from typing import Any

from deployments.http.server.refusals import CannotListen
from deployments.request_meter import RequestMeter
from engines.events import Usage

MOST_WAITING = 10_000
REFUSED_PER_S = 100
"""So many lines a second, of requests that were refused before any model had them."""


def request_line(
    meter: RequestMeter,
    *,
    id: str,
    peer: str | None,
    method: str,
    instance: str | None,
    moves: int,
    status: int,
    code: str | None,
) -> dict[str, Any]:
    """The line of a request: who asked what, and what became of it.

    Args:
        meter: What was measured of it.
        id: Its id.
        peer: Whose connection it came by; None: by none.
        method: Its HTTP method.
        instance: Which instance answered; None: none did.
        moves: How often its stream went on elsewhere.
        status: HTTP status; of an answer that failed after its head, that of the error.
        code: The code of the error, if there was one.
    """
    usage = meter.usage or Usage(completion_tokens=meter.tokens)
    now_s = time.monotonic()
    return {
        "request_id": id,
        "tenant": meter.tenant or None,
        "peer": peer,
        "method": method,
        "route": meter.endpoint,
        "model": meter.model or None,
        "instance": instance,
        "status": status,
        "error": code,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "ttft_s": round(meter.first_token_s - meter.started_s, 4) if meter.first_token_s else None,
        "seconds": round(now_s - meter.started_s, 4),
        "finish_reason": ",".join(sorted(meter.reasons)) or None,
        "moves": moves,
    }


class AccessLog:
    """Writes the lines.

    Args:
        target: `stdout`; or the path of a file, which other replicas may write, too, and which may be rotated.

    Raises:
        CannotListen: The file cannot be written.
    """

    def __init__(self, target: str) -> None:
        self._waiting: queue.Queue[Any] = queue.Queue(MOST_WAITING)
        self._left_out = 0
        self._second = 0
        self._refused = 0
        handler = logging.StreamHandler(sys.stdout) if target == "stdout" else _file(target)
        self._listener = QueueListener(self._waiting, handler)
        self._listener.start()

    def write(self, line: dict[str, Any], *, is_refused: bool) -> None:
        """Leaves a line; never waits.

        Args:
            line: What it says, besides the time.
            is_refused: The request was refused before any model had it.
        """
        now_s = time.time()
        if is_refused:
            if int(now_s) != self._second:
                self._second, self._refused = int(now_s), 0
            self._refused += 1
            if self._refused > REFUSED_PER_S:
                self._left_out += 1
                return
        moment = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds")
        left_out = {"left_out": self._left_out} if self._left_out else {}
        text = json.dumps({"time": moment, **line, **left_out})
        try:
            self._waiting.put_nowait(logging.LogRecord("access", logging.INFO, "", 0, text, None, None))
        except queue.Full:
            self._left_out += 1
        else:
            self._left_out = 0

    def close(self) -> None:
        """Writes what still waits."""
        self._listener.stop()
        for handler in self._listener.handlers:
            handler.close()


class NoAccessLog(AccessLog):
    """Writes nothing."""

    def __init__(self) -> None:
        pass

    def write(self, line: dict[str, Any], *, is_refused: bool) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _file(path: str) -> logging.Handler:
    try:
        # It tells who works when: only its owner can read it.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        return WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise CannotListen(f"http.access_log: {path} cannot be written: {error.strerror}.") from error
