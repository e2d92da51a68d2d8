"""Many small writes in few transactions: while one is under way, what is marked meanwhile gathers for the next."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from deployments.database.database import RETRY_S, DatabaseUnavailable

Written = TypeVar("Written")

END_S = 5.0
"""What the last of them get."""


class GroupCommit(Generic[Written]):
    """Writes what is marked, as soon as it can.

    Args:
        write: Writes some; raises DatabaseUnavailable if none was, and they are tried again.
        most: So many at a time.
    """

    def __init__(self, write: Callable[[Sequence[Written]], Awaitable[None]], most: int) -> None:
        self._write = write
        self._most = most
        self._marked: dict[Written, list[asyncio.Future[None]]] = {}
        self._wakes = asyncio.Event()
        self._is_ending = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to write."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Writes what is marked, if that can be done at once, and then no more; who still waits is told so."""
        self._is_ending = True
        self._wakes.set()
        if self._task is not None:
            # One that is cancelled in the middle of its transaction leaves others to wait until it has been undone.
            await asyncio.wait([self._task], timeout=END_S)
            self._task.cancel()
            await asyncio.wait([self._task])
        for waiting in self._marked.values():
            _tell(waiting, DatabaseUnavailable("The server ends."))

    def mark(self, written: Written) -> None:
        """It has changed."""
        self._marked.setdefault(written, [])
        self._wakes.set()

    async def committed(self, written: Written) -> None:
        """Returns once it is written as it is now.

        Raises:
            DatabaseUnavailable: That has failed once; it is tried again nevertheless.
        """
        done = asyncio.get_running_loop().create_future()
        self.mark(written)
        self._marked[written].append(done)
        await done

    async def _run(self) -> None:
        while not self._is_ending or self._marked:
            await self._wakes.wait()
            batch = {written: self._marked.pop(written) for written in list(islice(self._marked, self._most))}
            if not self._marked and not self._is_ending:
                self._wakes.clear()
            waiting = [future for futures in batch.values() for future in futures]
            try:
                await self._write(list(batch))
            except DatabaseUnavailable as error:
                _tell(waiting, error)
                if self._is_ending:
                    return
                for written in batch:
                    self.mark(written)
                await asyncio.sleep(RETRY_S)
            except BaseException:
                _tell(waiting, DatabaseUnavailable("The server ends."))
                raise
            else:
                _tell(waiting, None)


def _tell(waiting: Iterable[asyncio.Future[None]], error: DatabaseUnavailable | None) -> None:
    for future in waiting:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
