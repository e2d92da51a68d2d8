"""The admission gate of one instance: so many run, so many wait, the rest is refused at once.

Load so never becomes unbounded latency: a router takes the refusal to the next instance, and when all refuse, to the
client. Synchronous throughout: a waiting request is an entry in a queue, not a task.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from actors.settings import AdmissionSettings
from engines.errors import PenstockError, QueueFull

_MEMORY = 16.0
"""Completions over which the mean service time is averaged (exponentially)."""
_UNKNOWN_RETRY_S = 1.0
"""What a refused caller is told while no request has completed yet."""
_LONGEST_RETRY_S = 60.0
_GOES_ON = 1_000
"""The class of continuations, above all that a request can name."""


class Ticket:
    """One request's place at the gate: it waits, then runs, then has left.

    Attributes:
        priority: Higher is admitted first.
    """

    __slots__ = ("_admit", "_evict", "_gate", "_since_s", "_state", "priority")

    def __init__(
        self, gate: "Gate", priority: int, admit: Callable[[], None], evict: Callable[[PenstockError], None]
    ) -> None:
        self._gate = gate
        self._admit = admit
        self._evict = evict
        self._state: Literal["waits", "runs", "left"] = "waits"
        self._since_s = 0.0
        self.priority = priority

    @property
    def is_waiting(self) -> bool:
        """Whether it was not admitted yet."""
        return self._state == "waits"

    def leave(self) -> None:
        """Gives the place back, running or waiting, and lets the next one in. Idempotent."""
        self._gate._leave(self)


class Gate:
    """So many running, so many queued, the rest refused.

    Priorities are strict between classes, first come first served within. `admit` callbacks run inside `enter` or
    inside another ticket's `leave`; they must not raise.

    Args:
        settings: How many may run and wait.
        clock: Monotonic time in seconds.
    """

    def __init__(self, settings: AdmissionSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_running = settings.max_running
        self._max_queued = settings.max_queued
        self._clock = clock
        self._running = 0
        self._queued = 0
        # Only classes with somebody in them are kept, so the greatest key is the class to serve.
        self._classes: dict[int, OrderedDict[Ticket, None]] = {}
        self._service_s: float | None = None
        self._admitting = False

    @property
    def running(self) -> int:
        """Requests that were admitted and have not left."""
        return self._running

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._queued

    def enter(
        self,
        priority: int,
        admit: Callable[[], None],
        evict: Callable[[PenstockError], None] = lambda _: None,
        *,
        goes_on: bool = False,
    ) -> Ticket:
        """Takes a place; calls `admit` once, now or when it is its turn.

        Args:
            priority: Higher is admitted first.
            admit: The request may run. When there is room it is called before this returns.
            evict: The request is turned away while it waits (see `clear`).
            goes_on: It began on another instance, and somebody is in the middle of reading it: it waits before
                everybody else, and is not refused. There are no more of those than were admitted once.

        Raises:
            QueueFull: No place is left.
        """
        if goes_on:
            priority = _GOES_ON
        ticket = Ticket(self, priority, admit, evict)
        if self._running < self._max_running:
            self._run(ticket)
            return ticket
        if self._queued >= self._max_queued and not goes_on:
            raise QueueFull(
                f"The instance is full: {self._running} requests run and {self._queued} wait.",
                retry_after_s=self.retry_after_s(),
            )
        self._classes.setdefault(priority, OrderedDict())[ticket] = None
        self._queued += 1
        return ticket

    def clear(self, error: PenstockError) -> None:
        """Turns away everybody who waits."""
        waiting = [ticket for queue in self._classes.values() for ticket in queue]
        self._classes.clear()
        self._queued = 0
        for ticket in waiting:
            ticket._state = "left"
        for ticket in waiting:
            ticket._evict(error)

    def retry_after_s(self) -> float:
        """In how many seconds those who wait now, and one more, will have been admitted.

        Little's law: with all places taken, requests leave at the rate `running / mean service time`.
        """
        if self._service_s is None:
            return _UNKNOWN_RETRY_S
        return min(_LONGEST_RETRY_S, (self._queued + 1) * self._service_s / self._max_running)

    def _run(self, ticket: Ticket) -> None:
        self._running += 1
        ticket._state = "runs"
        ticket._since_s = self._clock()
        ticket._admit()

    def _leave(self, ticket: Ticket) -> None:
        state, ticket._state = ticket._state, "left"
        if state == "waits":
            self._queued -= 1
            self._discard(ticket)
        elif state == "runs":
            self._running -= 1
            self._observe(self._clock() - ticket._since_s)
            self._admit_next()

    def _admit_next(self) -> None:
        if self._admitting:
            return  # Somebody left from inside `admit`; the loop below goes on after it, without recursion.
        self._admitting = True
        try:
            while self._queued and self._running < self._max_running:
                successor = next(iter(self._classes[max(self._classes)]))
                self._queued -= 1
                self._discard(successor)
                self._run(successor)
        finally:
            self._admitting = False

    def _discard(self, ticket: Ticket) -> None:
        queue = self._classes[ticket.priority]
        del queue[ticket]
        if not queue:
            del self._classes[ticket.priority]

    def _observe(self, service_s: float) -> None:
        before = self._service_s
        self._service_s = service_s if before is None else before + (service_s - before) / _MEMORY
