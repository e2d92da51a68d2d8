"""Following what may change: a look every so often, and by what a file is known to be the same."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

Mark = tuple[int, int, int]
"""By what a file is known to be the same: when it was changed, its inode, its size."""


def mark_of(path: Path) -> Mark | None:
    """The mark of a file; None: it cannot be looked at, and why is said by reading it."""
    with suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_ino, stat.st_size
    return None


class Follower:
    """Looks again and again.

    Args:
        look: What it does; must not raise.
        every_s: Seconds between two times.
    """

    def __init__(self, look: Callable[[], Awaitable[object]], every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """Looks no more."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._look()
