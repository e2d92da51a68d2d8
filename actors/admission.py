"""The admission gate of one instance: so many run, so many wait, the rest is refused at once.

Load so never becomes unbounded latency: a router takes the refusal to the next instance, and when all refuse, to the
client. Synchronous throughout: a waiting request is an entry in a queue, not a task, and has no timer either; whoever
owns the gate calls `expire` now and then.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from actors.settings import AdmissionSettings
from engines.errors import PenstockError, QueueFull, QueueTimeout

_MEMORY = 16.0
"""Completions over which the mean service time is averaged (exponentially)."""
_UNKNOWN_RETRY_S = 1.0
"""What a refused caller is told while no request has completed yet."""
_LONGEST_RETRY_S = 60.0
_GOES_ON = -1_000
"""The class of continuations, before all that a request can name."""


class Ticket:
    """One request's place at the gate: it waits, then runs, then has left.

    Attributes:
        priority: Lower is admitted first.
        weight: How much room it takes.
    """

    __slots__ = ("_admit", "_evict", "_gate", "_since_s", "_state", "priority", "weight")

    def __init__(
        self,
        gate: "Gate",
        priority: int,
        weight: int,
        admit: Callable[[], None],
        evict: Callable[[PenstockError], None],
    ) -> None:
        self._gate = gate
        self._admit = admit
        self._evict = evict
        self._state: Literal["waits", "runs", "left"] = "waits"
        self._since_s = 0.0  # When it came into the state it is in.
        self.priority = priority
        self.weight = weight

    @property
    def is_waiting(self) -> bool:
        """Whether it was not admitted yet."""
        return self._state == "waits"

    def leave(self, *, failed: bool = False) -> None:
        """Gives the place back, running or waiting, and lets the next one in. Idempotent.

        Args:
            failed: It was not served: how long it took says nothing about how long those who wait will.
        """
        self._gate._leave(self, failed)


class Gate:
    """So many running, so many queued, the rest refused.

    A request takes as much room as it weighs, at most the whole gate: one that weighs more runs alone. Priorities are
    strict between classes, first come first served within: while a heavy one is the next and waits for enough room,
    nobody of its class or a later one overtakes it. `admit` callbacks run inside `enter` or inside another ticket's
    `leave`; they must not raise.

    Args:
        settings: How many may run and wait, and for how long.
        clock: Monotonic time in seconds.
    """

    def __init__(self, settings: AdmissionSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_running = settings.max_running
        self._max_queued = settings.max_queued
        self._queue_timeout_s = settings.queue_timeout_s
        self._clock = clock
        self._running = 0
        self._queued = 0
        # Only classes with somebody in them are kept, so the least key is the class to serve.
        self._classes: dict[int, OrderedDict[Ticket, None]] = {}
        self._service_s: float | None = None
        self._admitting = False

    @property
    def running(self) -> int:
        """The weight of the requests that were admitted and have not left."""
        return self._running

    @property
    def queued(self) -> int:
        """The weight of the requests that wait."""
        return self._queued

    def enter(
        self,
        priority: int,
        admit: Callable[[], None],
        evict: Callable[[PenstockError], None] = lambda _: None,
        *,
        weight: int = 1,
        goes_on: bool = False,
    ) -> Ticket:
        """Takes a place; calls `admit` once, now or when it is its turn.

        Args:
            priority: Lower is admitted first.
            admit: The request may run. When there is room it is called before this returns.
            evict: The request is turned away while it waits (see `clear` and `expire`).
            weight: How many ordinary requests it is worth.
            goes_on: It began on another instance, and somebody is in the middle of reading it: it waits before
                everybody else, for as long as it takes, and is not refused. There are no more of those than were
                admitted once.

        Raises:
            QueueFull: No place is left.
        """
        if goes_on:
            priority = _GOES_ON
        ticket = Ticket(self, priority, weight, admit, evict)
        if self._has_room(weight) and (not self._classes or priority < min(self._classes)):
            self._run(ticket)
            return ticket
        # The last place is taken by whoever comes, heavy or not: else a gate with few of them refused the heavy always.
        if self._queued >= self._max_queued and not goes_on:
            raise QueueFull(
                f"The instance is full: {self._running} requests run and {self._queued} wait.",
                retry_after_s=self.retry_after_s(weight),
            )
        ticket._since_s = self._clock()
        self._classes.setdefault(priority, OrderedDict())[ticket] = None
        self._queued += weight
        return ticket

    def expire(self) -> None:
        """Turns away those who have waited for too long. Called now and then."""
        too_early_s = self._clock() - self._queue_timeout_s
        late: list[Ticket] = []
        for priority, queue in self._classes.items():
            if priority == _GOES_ON:
                continue
            for ticket in queue:
                # First come, first to expire: the rest of its class came later.
                if ticket._since_s > too_early_s:
                    break
                late.append(ticket)
        for ticket in late:
            if ticket.is_waiting:  # Turning one away may make others leave.
                evict = ticket._evict
                ticket.leave()
                evict(
                    QueueTimeout(
                        f"The request waited {self._queue_timeout_s:g} s for its turn, and is given up.",
                        retry_after_s=self.retry_after_s(ticket.weight),
                    )
                )

    def clear(self, error: PenstockError) -> None:
        """Turns away everybody who waits."""
        waiting = [ticket for queue in self._classes.values() for ticket in queue]
        self._classes.clear()
        self._queued = 0
        for ticket in waiting:
            ticket._state = "left"
        for ticket in waiting:
            ticket._evict(error)

    def retry_after_s(self, weight: int = 1) -> float:
        """In how many seconds those who wait now, and one more, will have been admitted.

        Little's law: with all places taken, requests leave at the rate `running / mean service time`.
        """
        if self._service_s is None:
            return _UNKNOWN_RETRY_S
        return min(_LONGEST_RETRY_S, (self._queued + weight) * self._service_s / self._max_running)

    def _has_room(self, weight: int) -> bool:
        return self._running + weight <= self._max_running or not self._running

    def _run(self, ticket: Ticket) -> None:
        self._running += ticket.weight
        ticket._state = "runs"
        ticket._since_s = self._clock()
        ticket._admit()

    def _leave(self, ticket: Ticket, failed: bool) -> None:
        state, ticket._state = ticket._state, "left"
        if state == "left":
            return
        if state == "waits":
            self._discard(ticket)
        else:
            self._running -= ticket.weight
            if not failed:
                self._observe(self._clock() - ticket._since_s)
        # Also when it only waited: lighter ones may have waited behind it, with room for them.
        self._admit_next()

    def _admit_next(self) -> None:
        if self._admitting:
            return  # Somebody left from inside `admit`; the loop below goes on after it, without recursion.
        self._admitting = True
        try:
            while self._classes:
                successor = next(iter(self._classes[min(self._classes)]))
                if not self._has_room(successor.weight):
                    return
                self._discard(successor)
                self._run(successor)
        finally:
            self._admitting = False

    def _discard(self, ticket: Ticket) -> None:
        self._queued -= ticket.weight
        queue = self._classes[ticket.priority]
        del queue[ticket]
        if not queue:
            del self._classes[ticket.priority]

    def _observe(self, service_s: float) -> None:
        before = self._service_s
        self._service_s = service_s if before is None else before + (service_s - before) / _MEMORY
