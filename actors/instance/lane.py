"""A lane beside the gate: so many bytes are worked on at a time, so many wait, the rest is refused at once.

For what is not generated and whose cost is known before: tokenizing, detokenizing, embeddings. A large one neither
takes a place from streams nor keeps many small ones waiting for longer than itself.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.settings import LaneSettings
from engines.errors import PenstockError, QueueFull, RequestTooLarge

_RETRY_S = 1.0


class Lane:
    """So many bytes at a time, so many queued, the rest refused.

    Args:
        settings: How many.

    Attributes:
        running: Requests that are worked on.
        queued: Requests that wait.
    """

    def __init__(self, settings: LaneSettings) -> None:
        self._settings = settings
        self._running_bytes = 0
        self._queued_bytes = 0
        self._arrivals = 0
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self.running = 0
        self.queued = 0

    @asynccontextmanager
    async def place(self, size: int, order: int = 0) -> AsyncIterator[None]:
        """A place, as soon as there is one.

        Args:
            size: Bytes; small ones count `least_bytes`.
            order: Lower goes first; first come first served within.

        Raises:
            RequestTooLarge: It would not be taken on an idle instance either.
            QueueFull: No place is left to wait in.
            PenstockError: What `clear` was given, while it waited.
        """
        settings = self._settings
        if size > settings.max_bytes:
            raise RequestTooLarge(settings.max_bytes)
        # One that is larger than what runs at a time runs alone.
        size = min(max(size, settings.least_bytes), settings.running_bytes)
        if self._waiting or not self._fits(size):
            await self._wait(size, order)
        else:
            self._run(size)
        try:
            yield
        finally:
            self.running -= 1
            self._running_bytes -= size
            self._admit()

    def clear(self, error: PenstockError) -> None:
        """Turns away everybody who waits."""
        waiting, self._waiting = self._waiting, []
        for _, _, _, admitted in waiting:
            if not admitted.done():
                admitted.set_exception(error)

    async def _wait(self, size: int, order: int) -> None:
        settings = self._settings
        if self._queued_bytes + size > settings.queued_bytes:
            raise QueueFull(
                f"The instance is full: {self.running} requests of this kind run and {self.queued} wait.",
                retry_after_s=_RETRY_S,
            )
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._waiting, (order, self._arrivals, size, admitted))
        self.queued += 1
        self._queued_bytes += size
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
                # It was let in, and will not come.
                self.running -= 1
                self._running_bytes -= size
            self._admit()
            raise
        finally:
            self.queued -= 1
            self._queued_bytes -= size

    def _admit(self) -> None:
        while self._waiting:
            _, _, size, admitted = self._waiting[0]
            if not admitted.done():
                if not self._fits(size):
                    return
                self._run(size)
                admitted.set_result(None)
            heapq.heappop(self._waiting)

    def _fits(self, size: int) -> bool:
        return self._running_bytes + size <= self._settings.running_bytes

    def _run(self, size: int) -> None:
        self.running += 1
        self._running_bytes += size
