"""How late the event loop of this process is: what one piece of work costs everybody else on it."""

import asyncio
from collections import deque

TICK_S = 0.025
WINDOW_S = 15
"""A scrape must not miss what happened since the one before."""


class LoopLag:
    """Looks again and again how late a timer is, and remembers the latest of the last seconds."""

    __slots__ = ("_due_s", "_loop", "_seconds", "_timer")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        # For each of the last seconds in which something was late: which one, and how late.
        self._seconds: deque[tuple[int, float]] = deque(maxlen=WINDOW_S)

    def start(self) -> None:
        """Begins to look, on the running event loop. Idempotent."""
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._next()

    def stop(self) -> None:
        """Looks no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def longest_s(self) -> float:
        """The longest that the event loop stood still in the last seconds, as far as it was seen."""
        if self._loop is None:
            return 0.0
        since = self._loop.time() - WINDOW_S
        return max((lag_s for second, lag_s in self._seconds if second >= since), default=0.0)

    def _next(self) -> None:
        assert self._loop is not None
        self._due_s = self._loop.time() + TICK_S
        self._timer = self._loop.call_at(self._due_s, self._look)

    def _look(self) -> None:
        assert self._loop is not None
        now_s = self._loop.time()
        second, lag_s = int(now_s), now_s - self._due_s
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, lag_s))
        elif lag_s > self._seconds[-1][1]:
            self._seconds[-1] = (second, lag_s)
        self._next()
