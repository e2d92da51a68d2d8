"""Events in batches, for ways that cost by the item, as Ray's streaming calls do."""

import asyncio
from collections.abc import AsyncIterator

from engines.context import Context
from engines.contract import Engine
from engines.errors import PenstockError
from engines.events import Event, Finished
from engines.requests import GenerateRequest


class EventBatches:
    """A sink that is read in batches: whatever has come since the last `get`."""

    __slots__ = ("_error", "_events", "_waiter")

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._error: PenstockError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def emit(self, event: Event) -> None:
        """As `Sink.emit`."""
        self._events.append(event)
        self._wake()

    def fail(self, error: PenstockError) -> None:
        """As `Sink.fail`; the events before it are delivered first."""
        self._error = error
        self._wake()

    async def get(self) -> list[Event]:
        """What has come, at least one event.

        Raises:
            PenstockError: The stream failed, and every event before was delivered.
        """
        while not self._events:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events, self._events = self._events, []
        return events

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def in_batches(engine: Engine, request: GenerateRequest, context: Context) -> AsyncIterator[list[Event]]:
    """As `engine.generate`, in batches: a batch is never waited for, and grows while its reader is busy.

    Dropping the iterator kills the context.

    Raises:
        PenstockError: As `Engine.generate`.
    """
    batches = EventBatches()
    try:
        await engine.submit(request, context, batches)
        while True:
            events = await batches.get()
            yield events
            if isinstance(events[-1], Finished):
                return
    finally:
        context.kill()  # A stream that ended already takes no notice.
