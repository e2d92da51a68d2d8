"""Following what may change: a look every so often, by what a file is known to be the same, and disks that are gone."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from actors.daemon_thread import in_daemon_thread

Content = TypeVar("Content")

READ_S = 5.0
"""What cannot be read for so long, as on a shared disk that is gone, counts as what cannot be read."""

Mark = tuple[int, int, int]
"""By what a file is known to be the same: when it was changed, its inode, its size."""


def mark_of(path: Path) -> Mark | None:
    """The mark of a file; None: it cannot be looked at, and why is said by reading it."""
    with suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_ino, stat.st_size
    return None


class DiskReader(Generic[Content]):
    """Reads from a disk that may not answer.

    Args:
        read: What it does, in a thread.
    """

    def __init__(self, read: Callable[[], Content]) -> None:
        self._read = read
        self._reading: asyncio.Future[Content] | None = None

    async def read(self) -> Content:
        """What is read.

        Raises:
            TimeoutError: Nothing came for `READ_S`.
            Exception: What `read` raised.
        """
        # In one thread, however often it is tried: one that waits for a disk which is gone never ends.
        if self._reading is None:
            self._reading = in_daemon_thread(self._read)
            # Nobody may be there any more to hear that it failed.
            self._reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
        reading = self._reading
        await asyncio.wait([reading], timeout=READ_S)
        if not reading.done():
            raise TimeoutError
        # What comes just as the time is up counts, too.
        self._reading = None
        return reading.result()


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
