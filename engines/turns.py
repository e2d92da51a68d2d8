"""Long work on an event loop, in turns: nobody else on it waits for longer than one of them."""

import asyncio
import time

TURN_S = 0.002
REST_S = 0.001
"""Between two turns. What others do takes many steps, each in a turn of the event loop of its own: were one of ours in
between any two of them, they would wait for dozens of ours."""

_next_s = 0.0
"""When a next turn may begin, of whatever work of this process: together they leave as much to others as one."""


async def rest() -> None:
    """Leaves the event loop to others for `REST_S`."""
    await asyncio.sleep(REST_S)


class Turns:
    """The turns of one piece of work, the first of which begins now."""

    __slots__ = ("_began_s",)

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    async def pause(self) -> None:
        """Waits for the next turn, if this one has lasted `TURN_S`; to be called between two steps."""
        global _next_s
        now_s = time.perf_counter()
        if now_s - self._began_s < TURN_S:
            return
        begin_s = max(now_s + REST_S, _next_s)
        _next_s = begin_s + TURN_S + REST_S
        await asyncio.sleep(begin_s - now_s)
        self._began_s = time.perf_counter()
