"""The admission gate of one instance: so many run, so many wait, the rest is refused at once.

Load so never becomes unbounded latency: a router takes the refusal to the next instance, and when all refuse, to the
client. A request for several choices is the work of several requests. Those together never take the whole gate: however
many there are and however long they take, a part of it stays with the requests for one choice.

Synchronous throughout: a waiting request is an entry in a queue, not a task, and has no timer either; whoever owns the
gate calls `expire` now and then.
"""

import time
from collections.abc import Callable
from typing import Literal

from actors.fair_line import FairLine, order_of, victim_of
from actors.settings import AdmissionSettings
from actors.shares import Share, Shares
from engines.choice_share import share_of_several
from engines.errors import PenstockError, QueueFull, QueueTimeout
from engines.requests import TenantShare

_MEMORY = 16.0
"""Completions over which the mean service time is averaged (exponentially)."""
_UNKNOWN_RETRY_S = 1.0
"""What a refused caller is told while no request has completed yet."""
UNKNOWN_SLOTS = 256
"""What runs at a time on an engine that does not say how many it can."""
_KEPT_FREE = 16
"""One in so many places is kept free for tenants that have less than their part, while any others have come lately."""
_LONGEST_RETRY_S = 60.0
_GOES_ON = -1_000
"""The class of continuations, before all that a request can name."""


class Ticket:
    """One request's place at the gate: it waits, then runs, then has left.

    Attributes:
        priority: Lower is admitted first.
        share: What its tenant has had so far.
        weight: How much work it is: its choices.
        arrival: Its number, in the order in which requests came.
        room: How much of the gate it takes.
    """

    __slots__ = (
        "_admit",
        "_cost",
        "_evict",
        "_gate",
        "_line",
        "_since_s",
        "_state",
        "arrival",
        "priority",
        "room",
        "share",
        "weight",
    )

    def __init__(
        self,
        gate: "Gate",
        line: "_Line",
        priority: int,
        share: Share,
        arrival: int,
        weight: int,
        cost: float,
        admit: Callable[[], None],
        evict: Callable[[PenstockError], None],
    ) -> None:
        self._gate = gate
        self._line = line
        self._cost = cost
        self._admit = admit
        self._evict = evict
        self._state: Literal["waits", "runs", "left"] = "waits"
        self._since_s = 0.0  # When it came into the state it is in.
        self.priority = priority
        self.share = share
        self.arrival = arrival
        self.weight = weight
        self.room = min(weight, line.max_running)

    @property
    def is_waiting(self) -> bool:
        """Whether it was not admitted yet."""
        return self._state == "waits"

    def charge(self, cost: float, *, exactly: bool = False) -> None:
        """Says what it has cost its tenant so far, while it runs; only what is more than was said before counts.

        Args:
            cost: In tokens of the prompt.
            exactly: It is no estimate any more: it counts also when it is less.
        """
        if self._state == "runs" and (exactly or cost > self._cost):
            self._gate._shares.charge(self.share, cost - self._cost)
            self._cost = cost

    def leave(self, *, failed: bool = False) -> None:
        """Gives the place back, running or waiting, and lets the next one in. Idempotent.

        Args:
            failed: It was not served: how long it took says nothing about how long those who wait will.
        """
        self._gate._leave(self, failed)


class _Line(FairLine[Ticket]):
    """One kind of requests: how many run, and those who wait.

    Attributes:
        max_running: How much room its requests may take together.
        max_queued: How much may wait; the last place is taken by whoever comes, however heavy.
        taken: The room of those that run.
        running: The weight of those that run.
    """

    def __init__(self, shares: Shares, max_running: int, max_queued: int) -> None:
        super().__init__(shares)
        self.max_running = max_running
        self.max_queued = max_queued
        self.taken = 0
        self.running = 0

    def begin(self, ticket: Ticket) -> None:
        self.taken += ticket.room
        self.running += ticket.weight

    def end(self, ticket: Ticket) -> None:
        self.taken -= ticket.room
        self.running -= ticket.weight


class Gate:
    """So many running, so many queued, the rest refused.

    A request for several choices is a heavy one and takes as much room as it has choices. All heavy ones together take
    at most three quarters of the gate and of the queue; one that weighs more than that takes as much, and one that
    waits for others of its kind keeps nobody else waiting. Apart from that, priorities are strict between classes, and
    within one the tenant is next that was served least (`Shares`), first come first served within a tenant: while a
    heavy one is the next and waits for room that those for one choice hold, nobody who comes after it overtakes it.
    A few places are kept free of a tenant that has its part while others come, too: requests that began together end
    together, and who comes in between would wait for all of them.

    When no place is left to wait in, the newest of the tenant gives way that holds most of them, if it is no more
    urgent than the one who comes. `admit` and `evict` callbacks run inside `enter` or inside another ticket's `leave`;
    they must not raise.

    Args:
        settings: How many may run and wait, and for how long.
        clock: Monotonic time in seconds.
    """

    def __init__(self, settings: AdmissionSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_queued = settings.max_queued
        self._queue_timeout_s = settings.queue_timeout_s
        self._clock = clock
        self._arrivals = 0
        self._shares = Shares(clock)
        self._light = _Line(self._shares, 0, settings.max_queued)
        self._heavy = _Line(self._shares, 0, share_of_several(settings.max_queued))
        self._service_s: float | None = None
        self._admitting = False
        self._set_max_running(settings.max_running or UNKNOWN_SLOTS)
        self._follows_engine = settings.max_running is None

    def fit(self, slots: int | None) -> None:
        """Takes as many at a time as the engine works on, unless the settings say how many; before the first comes.

        What more were handed to the engine would wait inside it, where nobody takes turns.

        Args:
            slots: Choices that one step of the engine works on; None: it does not say.
        """
        if self._follows_engine and slots is not None:
            self._set_max_running(slots)

    def _set_max_running(self, max_running: int) -> None:
        self._max_running = self._light.max_running = max_running
        self._kept_free = max_running // _KEPT_FREE
        self._heavy.max_running = share_of_several(max_running)

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
        tenant: TenantShare | None = None,
        cost: float = 0.0,
        goes_on: bool = False,
    ) -> Ticket:
        """Takes a place; calls `admit` once, now or when it is its turn.

        Args:
            priority: Lower is admitted first.
            admit: The request may run. When there is room it is called before this returns.
            evict: The request is turned away while it waits (see `clear` and `expire`), or for another tenant's.
            weight: How many ordinary requests it is worth: its choices.
            tenant: Whom it is for.
            cost: What it costs at least, in tokens of the prompt (see `Ticket.charge`).
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
        share = self._shares.of(tenant)
        ticket = Ticket(self, line, priority, share, self._arrivals, weight, cost, admit, evict)
        if not self.queued and self._next(ticket) is ticket:
            self._run(ticket, waited=False)
            return ticket
        ticket._since_s = self._clock()
        line.add(ticket)
        self._admit_next()
        if ticket.is_waiting and not goes_on and not self._make_room(ticket):
            ticket._state = "left"
            line.discard(ticket)
            raise QueueFull(
                f"The instance is full: {self.running} requests run and {self.queued} wait.",
                retry_after_s=self.retry_after_s(weight),
            )
        return ticket

    def _make_room(self, ticket: Ticket) -> bool:
        """Turns others away until there is a place for one that has begun to wait; whether there is one now."""
        line = ticket._line
        # Its own weight does not count: else a gate with few places refused the heavy always.
        while (
            is_full := self.queued - ticket.weight >= self._max_queued
        ) or line.queued - ticket.weight >= line.max_queued:
            victim = victim_of(ticket, (self._light, self._heavy) if is_full else (line,))
            if victim is None:
                return False
            self._turn_away(
                victim,
                QueueFull(
                    "The instance is full, and others have asked for less of it.",
                    retry_after_s=self.retry_after_s(victim.weight),
                ),
            )
        return True

    def _turn_away(self, ticket: Ticket, error: PenstockError) -> None:
        evict = ticket._evict
        ticket.leave()
        evict(error)

    def expire(self) -> None:
        """Turns away those who have waited for too long, and lets in who may go by now. Called now and then."""
        too_early_s = self._clock() - self._queue_timeout_s
        late: list[Ticket] = []
        for priority, queue in (*self._light.queues(), *self._heavy.queues()):
            if priority == _GOES_ON:
                continue
            for ticket in queue:
                # First come, first to expire: the rest of its tenant's came later.
                if ticket._since_s > too_early_s:
                    break
                late.append(ticket)
        # In their order, because one that is turned away may let in, or make leave, others that came no earlier.
        for ticket in sorted(late, key=order_of):
            if ticket.is_waiting:
                self._turn_away(
                    ticket,
                    QueueTimeout(
                        f"The request waited {self._queue_timeout_s:g} s for its turn, and is given up.",
                        retry_after_s=self.retry_after_s(ticket.weight),
                    ),
                )
        self._admit_next()

    def clear(self, error: PenstockError) -> None:
        """Turns away everybody who waits."""
        waiting = [ticket for line in (self._light, self._heavy) for _, queue in line.queues() for ticket in queue]
        for ticket in waiting:
            ticket._state = "left"
            ticket._line.discard(ticket)
        for ticket in waiting:
            ticket._evict(error)

    def retry_after_s(self, weight: int = 1) -> float:
        """In how many seconds those who wait now, and one more, will have been admitted.

        Little's law: with all places taken, requests leave at the rate `running / mean service time`.
        """
        if self._service_s is None:
            return _UNKNOWN_RETRY_S
        return min(_LONGEST_RETRY_S, (self.queued + weight) * self._service_s / self._max_running)

    def _next(self, comes: Ticket | None = None) -> Ticket | None:
        """Which of the first of each line may run now, or of those and one that has just come; None: none of them."""
        light, heavy = self._light.first(self._may_go), self._heavy.first(self._may_go)
        if comes is not None:
            if not self._may_go(comes):
                return None
            light, heavy = (comes, heavy) if comes._line is self._light else (light, comes)
        if heavy is not None and self._heavy.taken + heavy.room > self._heavy.max_running:
            heavy = None
        first = min((one for one in (light, heavy) if one is not None), key=order_of, default=None)
        taken = self._light.taken + self._heavy.taken
        return first if first is not None and taken + first.room <= self._max_running else None

    def _may_go(self, ticket: Ticket) -> bool:
        """Whether its tenant has less than its part of the gate, or leaves a few places to the others that come."""
        left = self._max_running - self._light.taken - self._heavy.taken - ticket.room
        # One for which there is no room at all waits for it in its turn, and who is in the middle of an answer goes on.
        if left >= self._kept_free or left < 0 or ticket.priority == _GOES_ON:
            return True
        return ticket.share.running + ticket.room <= self._max_running * self._shares.part(ticket.share)

    def _run(self, ticket: Ticket, *, waited: bool) -> None:
        self._shares.run(ticket.share, ticket.room)
        if waited:
            ticket._line.discard(ticket)
        ticket._line.begin(ticket)
        self._shares.charge(ticket.share, ticket._cost)
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
            self._shares.run_no_more(ticket.share, ticket.room)
            if not failed:
                self._observe(self._clock() - ticket._since_s)
        # Also when it only waited: lighter ones may have waited behind it, with room for them.
        self._admit_next()

    def _admit_next(self) -> None:
        if self._admitting:
            return  # Somebody left from inside `admit`; the loop below goes on after it, without recursion.
        self._admitting = True
        try:
            while (successor := self._next()) is not None:
                self._run(successor, waited=True)
        finally:
            self._admitting = False

    def _observe(self, service_s: float) -> None:
        before = self._service_s
        self._service_s = service_s if before is None else before + (service_s - before) / _MEMORY
