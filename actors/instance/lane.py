"""A lane beside the gate: so many bytes are worked on at a time, so many wait, the rest is refused at once.

For what is not generated and whose cost is known before: tokenizing, detokenizing, embeddings. A large one neither
takes a place from streams nor keeps many small ones waiting for longer than itself. Tenants take turns, by bytes.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from actors.fair_line import FairLine, victim_of
from actors.settings import LaneSettings
from actors.shares import Share, Shares
from engines.errors import PenstockError, QueueFull, RequestTooLarge
from engines.requests import TenantShare

_RETRY_S = 1.0


@dataclass(slots=True, eq=False)
class _Place:
    """One that waits, until it is admitted or not; its weight is its size in bytes."""

    priority: int
    share: Share
    weight: int
    arrival: int
    admitted: asyncio.Future[None]
    waits: bool = True


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
        self._shares = Shares()
        self._line: FairLine[_Place] = FairLine(self._shares)
        self._running_bytes = 0
        self._arrivals = 0
        self.running = 0
        self.queued = 0

    @asynccontextmanager
    async def place(self, size: int, priority: int = 0, tenant: TenantShare | None = None) -> AsyncIterator[None]:
        """A place, as soon as there is one.

        Args:
            size: Bytes; small ones count `least_bytes`.
            priority: Lower goes first; tenants take turns within.
            tenant: Whom it is for.

        Raises:
            RequestTooLarge: It would not be taken on an idle instance either.
            QueueFull: No place is left to wait in: another tenant's last one gives way where that holds more of it.
            PenstockError: What `clear` was given, while it waited.
        """
        settings = self._settings
        if size > settings.max_bytes:
            raise RequestTooLarge(settings.max_bytes)
        # One that is larger than what runs at a time runs alone.
        size = min(max(size, settings.least_bytes), settings.running_bytes)
        share = self._shares.of(tenant)
        if self.queued or not self._fits(size):
            await self._wait(size, priority, share)
        else:
            self._run(size, share)
        try:
            yield
        finally:
            self._run_no_more(size, share)
            self._admit()

    def clear(self, error: PenstockError) -> None:
        """Turns away everybody who waits."""
        for place in [place for _, queue in self._line.queues() for place in queue]:
            self._turn_away(place, error)

    async def _wait(self, size: int, priority: int, share: Share) -> None:
        self._arrivals += 1
        place = _Place(priority, share, size, self._arrivals, asyncio.get_running_loop().create_future())
        self._line.add(place)
        self.queued += 1
        # The first may be another one now.
        self._admit()
        if not place.admitted.done() and not self._make_room(place):
            self._discard(place)
            raise QueueFull(
                f"The instance is full: {self.running} requests of this kind run and {self.queued} wait.",
                retry_after_s=_RETRY_S,
            )
        try:
            await place.admitted
        except asyncio.CancelledError:
            if place.waits:
                self._discard(place)
            elif not place.admitted.cancelled() and place.admitted.exception() is None:
                # It was let in, and will not come.
                self._run_no_more(size, share)
            self._admit()
            raise

    def _make_room(self, place: _Place) -> bool:
        """Turns others away until there is a place for one that has begun to wait; whether there is one now."""
        while self._line.queued > self._settings.queued_bytes:
            victim = victim_of(place, [self._line])
            if victim is None:
                return False
            reason = "The instance is full, and others have asked for less of it."
            self._turn_away(victim, QueueFull(reason, retry_after_s=_RETRY_S))
        return True

    def _turn_away(self, place: _Place, error: PenstockError) -> None:
        self._discard(place)
        if not place.admitted.done():
            place.admitted.set_exception(error)

    def _discard(self, place: _Place) -> None:
        self._line.discard(place)
        place.waits = False
        self.queued -= 1

    def _admit(self) -> None:
        while (place := self._line.first()) is not None:
            if place.admitted.cancelled():
                self._discard(place)  # Its waiter has not had its turn to.
                continue
            if not self._fits(place.weight):
                return
            self._run(place.weight, place.share)
            self._discard(place)
            place.admitted.set_result(None)

    def _fits(self, size: int) -> bool:
        return self._running_bytes + size <= self._settings.running_bytes

    def _run(self, size: int, share: Share) -> None:
        self.running += 1
        self._running_bytes += size
        self._shares.run(share, size)
        self._shares.charge(share, size)

    def _run_no_more(self, size: int, share: Share) -> None:
        self.running -= 1
        self._running_bytes -= size
        self._shares.run_no_more(share, size)
