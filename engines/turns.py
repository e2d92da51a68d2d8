"""Long work on an event loop, in turns: nobody else on it waits for longer than one of them."""

import asyncio
import time

TURN_S = 0.002


class Turns:
    """The turns of one piece of work, the first of which begins now."""

    __slots__ = ("_began_s",)

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    async def pause(self) -> None:
        """Lets the event loop have a turn, if this one has lasted `TURN_S`; to be called between two steps."""
        if time.perf_counter() - self._began_s >= TURN_S:
            await asyncio.sleep(0)
            self._began_s = time.perf_counter()
