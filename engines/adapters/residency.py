"""Which adapters an engine has loaded: brought in when they are asked for, the least recently used taken out for them.

An adapter in use is never taken out: vLLM would load it again in the middle of a step, from wherever it lies by then.
Where all are in use, the least recently used of them takes no new requests until its last one has ended: whoever waits
for its place gets it, however busy it is, and what came for it meanwhile waits for a place like everybody else.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from copy import copy

from engines.context import Context
from engines.errors import AdapterFailed, EngineFailed, PenstockError, QueueFull

FAILED_S = 10.0
"""For how long an adapter that could not be loaded is not tried again: trying holds the engine's steps up."""


class AdapterUse:
    """One request's hold on an adapter that is loaded; `release` it when the request has left the engine."""

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """The request has left the engine. Idempotent."""
        release, self._release = self._release, None
        if release is not None:
            release()


class _Resident:
    """An adapter that is loaded."""

    __slots__ = ("is_leaving", "users")

    def __init__(self) -> None:
        self.users = 0
        self.is_leaving = False


class ResidentAdapters:
    """The adapters that one engine has loaded.

    Args:
        known: Their names, and those of all others that it may load.
        limit: How many are loaded at most.
        load: Loads one; raises a PenstockError where it cannot.
        unload: Takes one out that no request uses; raises a PenstockError where it cannot.
        most_waiting: How many requests may wait for a place or for a load at a time.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        known: Collection[str],
        limit: int,
        load: Callable[[str], Awaitable[None]],
        unload: Callable[[str], Awaitable[None]],
        most_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = frozenset(known)
        self._limit = limit
        self._load = load
        self._unload = unload
        self._most_waiting = most_waiting
        self._clock = clock
        # The least recently used first.
        self._resident: OrderedDict[str, _Resident] = OrderedDict()
        self._turn = asyncio.Lock()  # First come, first served: one comes in at a time.
        self._coming: dict[str, tuple[asyncio.Task[None], list[asyncio.Future[AdapterUse]]]] = {}
        self._freed: asyncio.Future[None] | None = None  # What the one that comes in waits for.
        self._failed: dict[str, tuple[PenstockError, float]] = {}
        self._waiting: set[Context] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are loaded and take requests, in the order of their names."""
        return tuple(sorted(name for name, resident in self._resident.items() if not resident.is_leaving))

    def is_waiting(self, context: Context) -> bool:
        """Whether the request of this context waits for its adapter."""
        return context in self._waiting

    async def use(self, name: str, context: Context) -> AdapterUse:
        """Returns when the adapter is loaded; it stays so until what is returned is released.

        Args:
            name: The adapter's.
            context: Of the request that wants it; its stop ends the wait.

        Raises:
            AdapterFailed: It cannot be loaded, or is unknown here, as in the middle of an upgrade.
            QueueFull: Too many wait already.
            Cancelled: The context was stopped.
        """
        if name not in self._known:
            raise AdapterFailed(f"The adapter {name!r} is not known to this instance.")
        resident = self._resident.get(name)
        if resident is not None and not resident.is_leaving:
            return self._used(name, resident)
        failed = self._failed.get(name)
        if failed is not None and self._clock() < failed[1]:
            raise copy(failed[0])
        if len(self._waiting) >= self._most_waiting:
            raise QueueFull("Too many requests wait for adapters to be loaded.", retry_after_s=1.0)
        waiter: asyncio.Future[AdapterUse] = asyncio.get_running_loop().create_future()
        if name not in self._coming:
            # A task of its own: whoever asked first may give up, and the others still want it.
            self._coming[name] = (asyncio.create_task(self._bring(name), name=f"adapter {name}"), [])
        waiters = self._coming[name][1]
        waiters.append(waiter)
        self._waiting.add(context)
        try:
            return await context.unless_stopped(waiter)
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                waiter.result().release()
            raise
        finally:
            self._waiting.discard(context)
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                # Nobody wants it any more: nobody must make room for it.
                self._wake()

    def close(self, error: PenstockError) -> None:
        """Brings nothing in any more; whoever waits gets the error."""
        for task, waiters in list(self._coming.values()):
            task.cancel()
            for waiter in [waiter for waiter in waiters if not waiter.done()]:
                waiter.set_exception(copy(error))

    def _used(self, name: str, resident: _Resident) -> AdapterUse:
        resident.users += 1
        self._resident.move_to_end(name)
        return AdapterUse(lambda: self._release(resident))

    def _release(self, resident: _Resident) -> None:
        resident.users -= 1
        if not resident.users:
            self._wake()

    def _wake(self) -> None:
        if self._freed is not None and not self._freed.done():
            self._freed.set_result(None)

    async def _bring(self, name: str) -> None:
        error: PenstockError | None = None
        try:
            async with self._turn:
                waiters = self._coming[name][1]
                # It may have been about to leave, and stayed.
                if name not in self._resident and await self._make_room(waiters):
                    await self._load_now(name)
        except PenstockError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - whoever waits must hear of a bug, too
            error = EngineFailed(f"The adapter {name!r} could not be loaded: {type(failure).__name__}: {failure}")
        finally:
            # In this turn of the loop, before the next one may take it out again.
            _, waiters = self._coming.pop(name)
        resident = self._resident.get(name)
        for waiter in [waiter for waiter in waiters if not waiter.done()]:
            if error is not None:
                waiter.set_exception(copy(error))
            elif resident is not None:
                waiter.set_result(self._used(name, resident))

    async def _load_now(self, name: str) -> None:
        try:
            await self._load(name)
        except PenstockError as error:
            self._failed[name] = (error, self._clock() + FAILED_S)
            raise
        self._failed.pop(name, None)
        self._resident[name] = _Resident()

    async def _make_room(self, waiters: Sequence[object]) -> bool:
        """Returns true when there is a place; false when nobody waits for it any more."""
        while waiters and len(self._resident) >= self._limit:
            idle = next((name for name, resident in self._resident.items() if not resident.users), None)
            if idle is None:
                await self._until_one_is_free(next(iter(self._resident.values())))
                continue
            leaving = self._resident[idle]
            leaving.is_leaving = True
            try:
                await self._unload(idle)
            except BaseException:
                leaving.is_leaving = False
                raise
            del self._resident[idle]
        return bool(waiters)

    async def _until_one_is_free(self, oldest: _Resident) -> None:
        oldest.is_leaving = True
        self._freed = asyncio.get_running_loop().create_future()
        try:
            await self._freed
        finally:
            self._freed = None
            oldest.is_leaving = False
