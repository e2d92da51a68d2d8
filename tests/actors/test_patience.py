import asyncio
import time

import pytest

from actors.patience import within


async def never() -> None:
    await asyncio.Event().wait()


async def test_gives_what_comes_in_time() -> None:
    assert await within(60.0, asyncio.sleep(0.01, "done")) == "done"
    with pytest.raises(ValueError, match="no"):
        await within(60.0, asyncio.get_running_loop().run_in_executor(None, fail))


def fail() -> None:
    raise ValueError("no")


async def test_gives_up_and_cancels() -> None:
    waiting = asyncio.ensure_future(never())
    with pytest.raises(TimeoutError):
        await within(0.01, waiting)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_cancelling_cancels_what_is_waited_for() -> None:
    inner = asyncio.ensure_future(never())
    outer = asyncio.ensure_future(within(60.0, inner))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    with pytest.raises(asyncio.CancelledError):
        await inner


async def test_time_in_which_the_process_stood_still_does_not_count() -> None:
    timeout_s = 0.4
    # Due at once, but the loop, which stands still, would see its own deadline pass in the same turn.
    asyncio.get_running_loop().call_later(timeout_s / 4, time.sleep, 3 * timeout_s)
    assert await within(timeout_s, asyncio.sleep(timeout_s / 2, "late")) == "late"
