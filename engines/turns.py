"""Long work on an event loop, in turns: nobody else on it waits for longer than one of them."""

import asyncio
import time

TURN_S = 0.002
REST_S = 0.001
"""Between two turns. What others do takes many steps, each in a turn of the event loop of its own: were one of ours in
between any two of them, they would wait for dozens of ours."""


async def rest() -> None:
    """Leaves the event loop to others for `REST_S`."""
    await asyncio.sleep(REST_S)


class Turns:
    """The turns of one piece of work, the first of which begins now."""

    __slots__ = ("_began_s",)

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    async def pause(self) -> None:
        """Leaves the event loop to others for `REST_S`, if this turn has lasted `TURN_S`; called between two steps."""
        if time.perf_counter() - self._began_s >= TURN_S:
            await rest()
            self._began_s = time.perf_counter()
