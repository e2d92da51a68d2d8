"""Many small writes in few transactions: while one is under way, what is marked meanwhile gathers for the next."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, islice
from typing import Generic, TypeVar

from deployments.database.database import RETRY_S, DatabaseUnavailable

logger = logging.getLogger(__name__)

Written = TypeVar("Written")
Batch = dict[Written, list[asyncio.Future[None]]]
"""What is to be written, each with who waits for it."""

END_S = 5.0
"""What the last of them get."""


class GroupCommit(Generic[Written]):
    """Writes what is marked, as soon as it can.

    Args:
        write: Writes some, or none and raises: DatabaseUnavailable, and they are tried again; anything else, and each
            of them is tried alone.
        most: So many at a time.
    """

    def __init__(self, write: Callable[[Sequence[Written]], Awaitable[None]], most: int) -> None:
        self._write = write
        self._most = most
        self._marked: Batch[Written] = {}
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
        _tell(self._marked, DatabaseUnavailable("The server ends."))

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
            try:
                away = await self._commit(batch)
            except asyncio.CancelledError:
                _tell(batch, DatabaseUnavailable("The server ends."))
                raise
            if not away:
                continue
            if self._is_ending:
                return
            for written in batch:
                self.mark(written)
            await asyncio.sleep(RETRY_S)

    async def _commit(self, batch: Batch[Written]) -> bool:
        """Writes a batch and tells who waits; whether the database is away, and all of it is to be written again."""
        try:
            await self._write(list(batch))
        except DatabaseUnavailable as error:
            _tell(batch, error)
            return True
        except Exception:
            if len(batch) > 1:
                # One of them is wrong, and the others are not to be lost with it.
                return any([await self._commit({written: waiting}) for written, waiting in batch.items()])
            logger.exception("what cannot be written is left out")
            _tell(batch, DatabaseUnavailable("This cannot be written."))
            return False
        _tell(batch, None)
        return False


def _tell(batch: Batch[Written], error: DatabaseUnavailable | None) -> None:
    for future in chain.from_iterable(batch.values()):
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
