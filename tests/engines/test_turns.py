"""Long work on an event loop leaves it to others, not only between any two of their steps."""

import asyncio
import time

import pytest

from engines.turns import TURN_S, Turns


@pytest.mark.parametrize("works", [1, 3])
async def test_what_takes_many_steps_does_not_wait_for_a_turn_at_each(works: int) -> None:
    turns_taken = 0
    under_way = asyncio.Event()

    async def long_work() -> None:
        nonlocal turns_taken
        turns = Turns()
        while True:
            end_s = time.perf_counter() + TURN_S
            while time.perf_counter() < end_s:
                pass
            turns_taken += 1
            if turns_taken == 2 * works:
                under_way.set()
            await turns.pause()

    working = [asyncio.create_task(long_work()) for _ in range(works)]
    await under_way.wait()
    before = turns_taken
    for _ in range(300):
        await asyncio.sleep(0)
    assert turns_taken - before < 150
    for task in working:
        task.cancel()


async def test_short_work_is_done_in_one_go() -> None:
    others = 0

    async def other() -> None:
        nonlocal others
        others += 1

    going = asyncio.create_task(other())
    await Turns().pause()
    assert others == 0
    await going
