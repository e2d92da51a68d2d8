"""Faults: an instance that just failed is left alone for a while.

A lost channel, a dead engine or a timeout says that an instance is broken before the directory can know. It is
inhibited, in this process only, until some time has passed or the directory shows another actor under its id (a higher
incarnation). Overload is not a fault: it only moves the request on.
"""

import time
from collections.abc import Callable, Container

from engines.errors import EngineDead, PenstockError, StreamBroken, Timeout


def is_fault(error: PenstockError) -> bool:
    """Whether the error says that the instance is broken, rather than busy, draining or asked for nonsense."""
    return isinstance(error, StreamBroken | EngineDead | Timeout)


class Faults:
    """Which instances are inhibited.

    Args:
        inhibit_s: How long a fault counts.
        clock: Seconds that only grow.
    """

    def __init__(self, inhibit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._inhibit_s = inhibit_s
        self._clock = clock
        self._until: dict[str, tuple[int, float]] = {}

    def inhibit(self, instance: str, incarnation: int) -> None:
        """Leaves this incarnation of the instance alone from now on."""
        known, _ = self._until.get(instance, (incarnation, 0.0))
        if incarnation >= known:  # A late fault of a dead actor says nothing of the one that lives now.
            self._until[instance] = (incarnation, self._clock() + self._inhibit_s)

    def remaining_s(self, instance: str, incarnation: int) -> float:
        """Seconds for which this incarnation is still left alone; 0: it may be tried."""
        entry = self._until.get(instance)
        if entry is None:
            return 0.0
        faulty, until = entry
        left_s = until - self._clock()
        if incarnation > faulty or left_s <= 0:
            del self._until[instance]
            return 0.0
        return left_s

    def forget_others(self, instances: Container[str]) -> None:
        """Drops what is known of instances that are not among these."""
        for instance in [known for known in self._until if known not in instances]:
            del self._until[instance]
