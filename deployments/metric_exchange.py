"""Snapshots of metrics that the router replicas of a fleet leave for one another on a board.

What only grows (counters, histograms) is kept there without expiry, so that the sums do not fall when a replica dies:
once it has been gone for a while, its figures are added to those of all that are gone. Gauges expire with the replica.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from deployments.metric_snapshots import added, snapshot
from engines.errors import Unavailable

CUMULATIVE_PREFIX = "metrics/cumulative/"
GAUGES_PREFIX = "metrics/gauges/"
ALIVE_PREFIX = "metrics/alive/"
GONE = CUMULATIVE_PREFIX + "~gone"
"""The key under which the figures of all replicas that are gone are kept, as one."""
GONE_AFTER_S = 600.0
"""A replica that posted nothing for so long does not come back: its figures can be added up."""
FOLD_EVERY_S = 60.0


class Board(Protocol):
    """Where replicas leave values for one another."""

    async def post(self, key: str, value: bytes, ttl_s: float | None) -> None:
        """Leaves a value, in place of an earlier one of that key. It expires after `ttl_s`; None: never.

        Raises:
            Unavailable: The board cannot be reached now.
        """

    async def read(self, prefix: str) -> dict[str, bytes]:
        """The values whose key has this prefix.

        Raises:
            Unavailable: The board cannot be reached now.
        """

    async def swap(self, expected: Mapping[str, bytes | None], values: Mapping[str, bytes | None]) -> bool:
        """Leaves values without expiry, all at once, if the board holds what is expected; whether it did.

        None means that there is no value, or is to be none.

        Raises:
            Unavailable: The board cannot be reached now.
        """


class MetricExchange:
    """One replica's part in it.

    Args:
        replica: Name of the replica, unique in the fleet and in time.
        board: Where the snapshots are.
        post_every_s: Figures of a replica that dies are lost since its last post.
    """

    def __init__(self, replica: str, board: Board, post_every_s: float = 2.0) -> None:
        self._replica = replica
        self._board = board
        self._post_every_s = post_every_s

    async def run(self, snapshots: Callable[[], tuple[bytes, bytes]]) -> None:
        """Posts what `snapshots` makes, and adds up what is left of replicas that are gone, until cancelled."""
        fold_s = time.monotonic() + FOLD_EVERY_S
        while True:
            # Each post carries everything, so one that fails is made good by the next.
            with suppress(Unavailable):
                await self.post(*snapshots())
            if time.monotonic() >= fold_s:
                fold_s = time.monotonic() + FOLD_EVERY_S
                with suppress(Unavailable):
                    await self.fold()
            await asyncio.sleep(self._post_every_s)

    async def post(self, cumulative: bytes, gauges: bytes) -> None:
        """Leaves this replica's snapshots: of what only grows, and of its gauges.

        Raises:
            Unavailable: The board cannot be reached now.
        """
        # Before its figures: those of a replica that is not alive are added up by others.
        await self._board.post(ALIVE_PREFIX + self._replica, b"", GONE_AFTER_S)
        await self._board.post(CUMULATIVE_PREFIX + self._replica, cumulative, None)
        await self._board.post(GAUGES_PREFIX + self._replica, gauges, 3 * self._post_every_s)

    async def others(self) -> list[bytes]:
        """The snapshots of all other replicas, those of the gone ones among them.

        Raises:
            Unavailable: The board cannot be reached now.
        """
        found: list[bytes] = []
        for prefix in (CUMULATIVE_PREFIX, GAUGES_PREFIX):
            posted = await self._board.read(prefix)
            found.extend(value for key, value in posted.items() if key != prefix + self._replica)
        return found

    async def fold(self) -> None:
        """Adds up the figures of replicas that are gone, so that the board does not grow with each that ever lived.

        Raises:
            Unavailable: The board cannot be reached now.
        """
        cumulative = await self._board.read(CUMULATIVE_PREFIX)
        alive = {key.removeprefix(ALIVE_PREFIX) for key in await self._board.read(ALIVE_PREFIX)}
        known = cumulative.pop(GONE, None)
        gone = {
            key: value
            for key, value in cumulative.items()
            if (replica := key.removeprefix(CUMULATIVE_PREFIX)) not in alive and replica != self._replica
        }
        if gone:
            total = snapshot(added([*gone.values(), *([] if known is None else [known])]))
            # Another replica may do the same now; one of the two swaps fails, and nothing is counted twice.
            await self._board.swap({**gone, GONE: known}, {**dict.fromkeys(gone), GONE: total})
