"""Long work on an event loop leaves it to others, not only between any two of their steps."""

import asyncio
import time

from engines.turns import TURN_S, Turns


async def test_what_takes_many_steps_does_not_wait_for_a_turn_at_each() -> None:
    done = 0

    async def long_work() -> None:
        nonlocal done
        turns = Turns()
        while True:
            end_s = time.perf_counter() + TURN_S
            while time.perf_counter() < end_s:
                pass
            await turns.pause()
            done += 1

    working = asyncio.create_task(long_work())
    await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert done < 50
    working.cancel()


async def test_short_work_is_done_in_one_go() -> None:
    others = 0

    async def other() -> None:
        nonlocal others
        others += 1

    turns = Turns()
    going = asyncio.create_task(other())
    await turns.pause()
    assert others == 0
    await going
