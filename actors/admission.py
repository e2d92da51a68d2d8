"""The admission gate of one instance: so many run, so many wait, the rest is refused at once.

Load so never becomes unbounded latency: a router takes the refusal to the next instance, and when all refuse, to the
client. A request for several choices is the work of several requests. Those together never take the whole gate: however
many there are and however long they take, a part of it stays with the requests for one choice.

Synchronous throughout: a waiting request is an entry in a queue, not a task, and has no timer either; whoever owns the
gate calls `expire` now and then.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Literal

from actors.settings import AdmissionSettings
from engines.choice_share import share_of_several
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
        weight: How much work it is: its choices.
        room: How much of the gate it takes.
    """

    __slots__ = ("_admit", "_arrival", "_evict", "_gate", "_line", "_since_s", "_state", "priority", "room", "weight")

    def __init__(
        self,
        gate: "Gate",
        line: "_Line",
        priority: int,
        arrival: int,
        weight: int,
        admit: Callable[[], None],
        evict: Callable[[PenstockError], None],
    ) -> None:
        self._gate = gate
        self._line = line
        self._arrival = arrival
        self._admit = admit
        self._evict = evict
        self._state: Literal["waits", "runs", "left"] = "waits"
        self._since_s = 0.0  # When it came into the state it is in.
        self.priority = priority
        self.weight = weight
        self.room = min(weight, line.max_running)

    @property
    def order(self) -> tuple[int, int]:
        """Its place among all that wait."""
        return self.priority, self._arrival

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


class _Line:
    """One kind of requests: how many run, and those who wait, by class, first come first served within.

    Attributes:
        max_running: How much room its requests may take together.
        max_queued: How much may wait; the last place is taken by whoever comes, however heavy.
        taken: The room of those that run.
        running: The weight of those that run.
        queued: The weight of those that wait.
    """

    def __init__(self, max_running: int, max_queued: int) -> None:
        self.max_running = max_running
        self.max_queued = max_queued
        self.taken = 0
        self.running = 0
        self.queued = 0
        # Only classes with somebody in them are kept, so the least key is the class to serve.
        self._classes: dict[int, OrderedDict[Ticket, None]] = {}

    def first(self) -> Ticket | None:
        """The next in turn."""
        return next(iter(self._classes[min(self._classes)])) if self._classes else None

    def queues(self) -> Iterable[tuple[int, Iterable[Ticket]]]:
        """Each class, with those who wait in it."""
        return self._classes.items()

    def add(self, ticket: Ticket) -> None:
        self.queued += ticket.weight
        self._classes.setdefault(ticket.priority, OrderedDict())[ticket] = None

    def discard(self, ticket: Ticket) -> None:
        self.queued -= ticket.weight
        queue = self._classes[ticket.priority]
        del queue[ticket]
        if not queue:
            del self._classes[ticket.priority]

    def begin(self, ticket: Ticket) -> None:
        self.taken += ticket.room
        self.running += ticket.weight

    def end(self, ticket: Ticket) -> None:
        self.taken -= ticket.room
        self.running -= ticket.weight

    def clear(self) -> list[Ticket]:
        """Takes out all who wait."""
        waiting = [ticket for _, queue in self.queues() for ticket in queue]
        self._classes.clear()
        self.queued = 0
        return waiting


class Gate:
    """So many running, so many queued, the rest refused.

    A request for several choices is a heavy one and takes as much room as it has choices. All heavy ones together take
    at most three quarters of the gate and of the queue; one that weighs more than that takes as much, and one that
    waits for others of its kind keeps nobody else waiting. Apart from that, priorities are strict between classes,
    first come first served within: while a heavy one is the next and waits for room that those for one choice hold,
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
        self._arrivals = 0
        self._light = _Line(settings.max_running, settings.max_queued)
        self._heavy = _Line(share_of_several(settings.max_running), share_of_several(settings.max_queued))
        self._service_s: float | None = None
        self._admitting = False

    @property
    def running(self) -> int:
        """The weight of the requests that were admitted and have not left."""
        return self._light.running + self._heavy.running

    @property
    def queued(self) -> int:
        """The weight of the requests that wait."""
        return self._light.queued + self._heavy.queued

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
            weight: How many ordinary requests it is worth: its choices.
            goes_on: It began on another instance, and somebody is in the middle of reading it: it waits before
                everybody else, for as long as it takes, and is not refused. There are no more of those than were
                admitted once.

        Raises:
            QueueFull: No place is left.
        """
        if goes_on:
            priority = _GOES_ON
        self._arrivals += 1
        line = self._heavy if weight > 1 else self._light
        ticket = Ticket(self, line, priority, self._arrivals, weight, admit, evict)
        if self._is_next(ticket):
            self._run(ticket)
            return ticket
        # Its own weight does not count: else a gate with few places refused the heavy always.
        if (self.queued >= self._max_queued or line.queued >= line.max_queued) and not goes_on:
            raise QueueFull(
                f"The instance is full: {self.running} requests run and {self.queued} wait.",
                retry_after_s=self.retry_after_s(weight),
            )
        ticket._since_s = self._clock()
        line.add(ticket)
        return ticket

    def expire(self) -> None:
        """Turns away those who have waited for too long. Called now and then."""
        too_early_s = self._clock() - self._queue_timeout_s
        late: list[Ticket] = []
        for priority, queue in (*self._light.queues(), *self._heavy.queues()):
            if priority == _GOES_ON:
                continue
            for ticket in queue:
                # First come, first to expire: the rest of its class came later.
                if ticket._since_s > too_early_s:
                    break
                late.append(ticket)
        # In their order, because one that is turned away may let in, or make leave, others that came no earlier.
        for ticket in sorted(late, key=lambda one: one.order):
            if ticket.is_waiting:
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
        waiting = [*self._light.clear(), *self._heavy.clear()]
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
        return min(_LONGEST_RETRY_S, (self.queued + weight) * self._service_s / self._max_running)

    def _is_next(self, ticket: Ticket) -> bool:
        """Whether one that has just come may run at once."""
        first = ticket._line.first()
        if first is not None and first.order < ticket.order:
            return False
        light, heavy = (ticket, self._heavy.first()) if ticket._line is self._light else (self._light.first(), ticket)
        return self._next(light, heavy) is ticket

    def _next(self, light: Ticket | None, heavy: Ticket | None) -> Ticket | None:
        """Which of the first of each line may run now; None: neither."""
        if heavy is not None and self._heavy.taken + heavy.room > self._heavy.max_running:
            heavy = None
        first = min((one for one in (light, heavy) if one is not None), key=lambda one: one.order, default=None)
        taken = self._light.taken + self._heavy.taken
        return first if first is not None and taken + first.room <= self._max_running else None

    def _run(self, ticket: Ticket) -> None:
        ticket._line.begin(ticket)
        ticket._state = "runs"
        ticket._since_s = self._clock()
        ticket._admit()

    def _leave(self, ticket: Ticket, failed: bool) -> None:
        state, ticket._state = ticket._state, "left"
        if state == "left":
            return
        if state == "waits":
            ticket._line.discard(ticket)
        else:
            ticket._line.end(ticket)
            if not failed:
                self._observe(self._clock() - ticket._since_s)
        # Also when it only waited: lighter ones may have waited behind it, with room for them.
        self._admit_next()

    def _admit_next(self) -> None:
        if self._admitting:
            return  # Somebody left from inside `admit`; the loop below goes on after it, without recursion.
        self._admitting = True
        try:
            while (successor := self._next(self._light.first(), self._heavy.first())) is not None:
                successor._line.discard(successor)
                self._run(successor)
        finally:
            self._admitting = False

    def _observe(self, service_s: float) -> None:
        before = self._service_s
        self._service_s = service_s if before is None else before + (service_s - before) / _MEMORY
