"""Affinity: a session stays on the instance that holds its state (sticky dispatch).

An unbound session is placed by rendezvous hashing: each instance draws a number from the session and its own id, and
the highest number wins (Thaler and Ravishankar, 1998). Every router replica draws the same numbers, so they agree
without talking, and an instance that joins or leaves moves only the sessions that it wins or held. In `soft` mode an
instance that carries more than `load_factor` times the mean is passed over (bounded load; Mirrokni, Thorup and
Zadimoghaddam, 2017).

At its first dispatch the session is bound: what comes while that waits at the instance goes there, too. A dispatch
that fails binds nothing, and leaves the session where it was. This replica remembers the instance for as long as
requests of the session run and `idle_s` longer; the other replicas hear of it from the instance
(`actors.instance.sessions`). A bound session goes to its instance whatever the hash says by now, with two exceptions:

- The instance is gone: the directory shows it no more, or not as ready. A draining instance counts as gone, because it
  takes no new request and its state ends with it. Both modes then place the session anew. An instance that is only
  inhibited by a recent fault is not gone; a `hard` session waits for it (its request fails with a retryable error),
  a `soft` one moves.
- In `soft` mode, the instance carries too much, or refuses.

`hard` sessions are placed without the load bound: replicas see loads that differ a little, and a placement that depends
on them would differ, too.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from math import ceil
from typing import Literal

from deployments.model_settings import StickySettings
from deployments.routing.policies import C
from engines.rendezvous import draw

FREE_LOAD = 4
"""Requests that an instance may carry however idle the others are: a session with a few parallel requests on an idle
fleet gains nothing by being spread, and would lose its prefix cache."""
MAX_IDLE_SESSIONS = 200_000
"""Idle sessions that are remembered; beyond it the longest idle is forgotten, and the hash places it again."""


def load_bound(loads: Sequence[int], load_factor: float) -> int:
    """Most requests that an instance may carry, one more included, before a soft session passes it over."""
    return max(FREE_LOAD, ceil(load_factor * (sum(loads) + 1) / len(loads)))


class Lease:
    """One request's hold on its session's binding, from its dispatch to its end.

    `keep()` it when the instance took the request, and `release()` it when the request ends or was not taken; more
    often does no harm.
    """

    __slots__ = ("_affinity", "_before", "_instance", "_is_kept", "_session")

    def __init__(self, affinity: "Affinity", session: str, instance: str, before: str) -> None:
        self._affinity: Affinity | None = affinity
        self._session = session
        self._instance = instance
        self._before = before  # Where the session was.
        self._is_kept = False

    def keep(self) -> None:
        """The instance took the request: the session is there."""
        if self._affinity is not None and not self._is_kept:
            self._is_kept = True
            self._affinity._keep(self._session, self._instance)

    def release(self) -> None:
        """The request has ended, or was not taken."""
        affinity, self._affinity = self._affinity, None
        if affinity is not None:
            affinity._release(self._session, self._instance, None if self._is_kept else self._before)


class _Binding:
    """Where a session is.

    Attributes:
        is_kept: Whether an instance took a request of it; else the binding ends with its last lease.
        fallback: What holds again then.
    """

    __slots__ = ("fallback", "idle_since_s", "instance", "is_kept", "running")

    def __init__(self, instance: str, idle_since_s: float = 0.0, fallback: "_Binding | None" = None) -> None:
        self.instance = instance
        self.running = 0
        self.idle_since_s = idle_since_s
        self.is_kept = False
        self.fallback = fallback


class Affinity:
    """Where the sessions of one model are.

    Args:
        settings: How sessions stay.
        clock: Seconds that only grow.
        max_idle: Idle sessions that are remembered.
    """

    def __init__(
        self,
        settings: StickySettings,
        clock: Callable[[], float] = time.monotonic,
        max_idle: int = MAX_IDLE_SESSIONS,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._max_idle = max_idle
        # A binding is in exactly one of the two: what runs cannot expire, and the idle are in the order of expiry.
        self._running: dict[str, _Binding] = {}
        self._idle: OrderedDict[str, _Binding] = OrderedDict()

    def __len__(self) -> int:
        return len(self._running) + len(self._idle)

    def bound(self, session: str) -> str | None:
        """The instance that the session is bound to, or None."""
        self._expire()
        binding = self._running.get(session)
        if binding is None:
            binding = self._idle.get(session)
            # What was heard of late need not stand in the order of expiry.
            if binding is None or binding.idle_since_s <= self._horizon_s():
                return None
        return binding.instance

    def choose(
        self, session: str, mode: Literal["soft", "hard"], candidates: Sequence[C], present: Collection[str]
    ) -> C | None:
        """The candidate that should take a request of the session.

        Args:
            session: The session's id.
            mode: Whether it gives way to load.
            candidates: Instances that can take a request now.
            present: Ids of all that are ready, candidates or not: a hard session bound to one of these waits for it.

        Returns:
            One of the candidates; None when there is none, or when the session must wait for its instance.
        """
        home = self.bound(session)
        if mode == "hard":
            if home is not None and home in present:
                return next((candidate for candidate in candidates if candidate.id == home), None)
            return max(candidates, key=lambda candidate: draw(session, candidate.id), default=None)
        if not candidates:
            return None
        loads = [candidate.load for candidate in candidates]
        bound = load_bound(loads, self._settings.load_factor)
        # The least loaded is always under the bound, since the bound is over the mean.
        free = [candidate for candidate, load in zip(candidates, loads, strict=True) if load < bound]
        for candidate in free:
            if candidate.id == home:
                return candidate
        return max(free, key=lambda candidate: draw(session, candidate.id))

    def reserve(self, session: str, instance: str) -> Lease:
        """Binds the session to the instance that is about to be asked to take its request."""
        binding = self._running.get(session)
        if binding is None:
            binding = self._running[session] = _Binding(instance, fallback=self._idle.pop(session, None))
        lease = Lease(self, session, instance, binding.instance)
        binding.instance = instance
        binding.running += 1
        return lease

    def lease(self, session: str, instance: str) -> Lease:
        """Binds the session to the instance that took its request, for as long as that runs and `idle_s` longer."""
        lease = self.reserve(session, instance)
        lease.keep()
        return lease

    def hear(self, session: str, instance: str, idle_s: float) -> None:
        """Binds the session to the instance, which says that another replica's request of it is there.

        Args:
            session: The session's id.
            instance: Where it is.
            idle_s: Seconds since it was there.
        """
        since_s = self._clock() - idle_s
        running = self._running.get(session)
        known = self._idle.get(session) if running is None else running.fallback
        # Of two that disagree the later one holds.
        if since_s <= self._horizon_s() or (known is not None and known.idle_since_s >= since_s):
            return
        if running is None:
            self._rest(session, _Binding(instance, since_s))
        elif not running.is_kept:
            # What runs through this replica is not over yet; what it only tries to run may come to nothing.
            running.fallback = _Binding(instance, since_s)

    def _keep(self, session: str, instance: str) -> None:
        binding = self._running[session]
        binding.instance = instance
        binding.is_kept = True
        binding.fallback = None

    def _release(self, session: str, instance: str, before: str | None) -> None:
        """One lease less; one that was not kept goes back to where the session was before."""
        binding = self._running[session]
        binding.running -= 1
        if before is not None and binding.instance == instance:
            binding.instance = before
        if binding.running:
            return
        del self._running[session]
        if binding.is_kept:
            self._rest(session, _Binding(binding.instance, self._clock()))
        elif binding.fallback is not None:
            self._rest(session, binding.fallback)

    def _rest(self, session: str, binding: _Binding) -> None:
        self._idle[session] = binding
        self._idle.move_to_end(session)
        if len(self._idle) > self._max_idle:
            self._idle.popitem(last=False)

    def _horizon_s(self) -> float:
        return self._clock() - self._settings.idle_s

    def _expire(self) -> None:
        horizon_s = self._horizon_s()
        while self._idle:
            session, binding = next(iter(self._idle.items()))
            if binding.idle_since_s > horizon_s:
                return
            del self._idle[session]
