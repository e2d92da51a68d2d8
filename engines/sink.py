"""Where the events of a stream go: a sink takes them as they come, a mailbox keeps them until they are read."""

import asyncio
from collections import deque
from typing import Generic, Protocol

from typing_extensions import TypeVar

from engines.errors import PenstockError
from engines.events import Event

EventT = TypeVar("EventT", default=Event)
EventT_contra = TypeVar("EventT_contra", default=Event, contravariant=True)


class Sink(Protocol[EventT_contra]):
    """Takes the events of one stream, in order, synchronously; never blocks, never raises.

    After `emit` of the terminal event (`Finished`), or `fail`, it is called no more.
    """

    def emit(self, event: EventT_contra) -> None:
        """Takes the next event."""

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream."""


class Mailbox(Generic[EventT]):
    """A sink that is read by one `get` or `get_all` after another: the bridge from push to pull."""

    __slots__ = ("_error", "_events", "_waiter")

    def __init__(self) -> None:
        self._events: deque[EventT] = deque()
        self._error: PenstockError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def emit(self, event: EventT) -> None:
        """Takes the next event."""
        self._events.append(event)
        self._wake()

    def fail(self, error: PenstockError) -> None:
        """Takes the error; the events before it are delivered first."""
        self._error = error
        self._wake()

    async def get(self) -> EventT:
        """The next event.

        Raises:
            PenstockError: The stream failed, and every event before was delivered.
        """
        await self._filled()
        return self._events.popleft()

    async def get_all(self) -> list[EventT]:
        """All events that have come and were not read yet, at least one.

        Raises:
            PenstockError: The stream failed, and every event before was delivered.
        """
        await self._filled()
        events = list(self._events)
        self._events.clear()
        return events

    async def _filled(self) -> None:
        while not self._events:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
