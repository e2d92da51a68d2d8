"""Waiting for something that may never come, without blaming it for time in which this process itself stood still."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")
_SLICES = 10


async def within(timeout_s: float, awaitable: Awaitable[_T]) -> _T:
    """What the awaitable returns; gives it up after so long.

    As `asyncio.timeout`, but in slices, of which a machine that was suspended, or a loop that stood still, spends no
    more than one.

    Raises:
        TimeoutError: It was cancelled, after `timeout_s`.
    """
    waiting = asyncio.ensure_future(awaitable)
    try:
        for _ in range(_SLICES):
            done, _ = await asyncio.wait({waiting}, timeout=timeout_s / _SLICES)
            if done:
                return waiting.result()
    finally:
        waiting.cancel()
    raise TimeoutError
