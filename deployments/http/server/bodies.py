"""What request bodies cost the process: their bytes are held to a budget, and large ones are parsed one at a time."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deployments.fleet_settings import MAX_TOKEN_IDS
from deployments.http.server.json_guard import parse_in_slices, parse_object
from deployments.http.server.refusals import BodiesOverBudget
from engines.turns import Turns, rest

LARGE_BYTES = 64 * 1024
"""From here on a body may cost milliseconds, and waits for its turn."""
BREATH_S = 0.01
"""From one large body to the next: what the rest of the first one's way and everybody else's streams get."""


class Bodies:
    """The request bodies of one process.

    Args:
        max_bytes: Bytes of all bodies that are being read or parsed.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._turn = asyncio.Lock()
        self.bytes = 0

    @contextmanager
    def room(self) -> Iterator["BodyRoom"]:
        """What one body takes of the budget; given back at the end."""
        room = BodyRoom(self)
        try:
            yield room
        finally:
            self.give_back(room.bytes)

    def take(self, size: int) -> None:
        """Takes bytes of the budget.

        Raises:
            BodiesOverBudget: There are not as many left.
        """
        if self.bytes + size > self._max_bytes:
            raise BodiesOverBudget
        self.bytes += size

    def give_back(self, size: int) -> None:
        """Gives back what `take` has taken."""
        self.bytes -= size

    async def parse(self, body: bytes, max_depth: int, max_numbers: int = MAX_TOKEN_IDS) -> dict[str, Any]:
        """The JSON object in a body.

        Raises:
            InvalidRequest: As `parse_object`.
        """
        if len(body) < LARGE_BYTES:
            return parse_object(body, max_depth, max_numbers)
        await self._turn.acquire()
        try:
            return await _in_turns(body, max_depth, max_numbers)
        finally:
            # What its handler does with it comes in the turns after this one.
            asyncio.get_running_loop().call_later(BREATH_S, self._turn.release)


class BodyRoom:
    """One body's part of the budget."""

    __slots__ = ("_bodies", "bytes")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.bytes = 0

    def grow_to(self, size: int) -> None:
        """Takes so many bytes altogether.

        Raises:
            BodiesOverBudget: There are not as many left.
        """
        if size > self.bytes:
            self._bodies.take(size - self.bytes)
            self.bytes = size


async def _in_turns(body: bytes, max_depth: int, max_numbers: int) -> dict[str, Any]:
    parsing = parse_in_slices(body, max_depth, max_numbers)
    turns = Turns()
    while True:
        try:
            next(parsing)
        except StopIteration as end:
            await rest()
            parsed: dict[str, Any] = end.value
            return parsed
        await turns.pause()
