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

MOST_WAITING = 10_000
REFUSED_PER_S = 100
"""So many lines a second, of requests that were refused before any model had them."""


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
