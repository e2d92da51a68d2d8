"""A line of requests that wait: by class, within a class by tenant, and within a tenant first come first served."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from actors.shares import Share, Shares

Order = tuple[int, float, int]


class Waiting(Protocol):
    """What can wait in a line.

    Attributes:
        priority: Its class; lower goes first.
        share: What its tenant has had so far.
        weight: How much of the line it takes.
        arrival: Its number, in the order in which requests came.
    """

    priority: int
    share: Share
    weight: int
    arrival: int


W = TypeVar("W", bound=Waiting)


def order_of(waiting: Waiting) -> Order:
    """What the first of all that wait has least of. It changes with what tenants are served."""
    return waiting.priority, waiting.share.served, waiting.arrival


class FairLine(Generic[W]):
    """Those who wait, and who is next.

    Args:
        shares: What each tenant has had; other lines of the same place have them in common.

    Attributes:
        queued: The weight of all.
        held: The weight of each tenant.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        # Only classes and tenants with somebody in them are kept.
        self._classes: dict[int, dict[Share, OrderedDict[W, None]]] = {}
        self.queued = 0
        self.held: dict[Share, int] = {}

    def first(self, may_go: Callable[[W], bool] = lambda _: True) -> W | None:
        """The next in turn.

        Args:
            may_go: Whose turn is passed over if it must not, for another tenant's of the same class.
        """
        if not self._classes:
            return None
        tenants = self._classes[min(self._classes)]
        return min(filter(may_go, (next(iter(queue)) for queue in tenants.values())), key=order_of, default=None)

    def queues(self) -> Iterator[tuple[int, list[W]]]:
        """Each class, with those of one tenant who wait in it, in the order in which they came."""
        for priority, tenants in self._classes.items():
            for queue in tenants.values():
                yield priority, list(queue)

    def newest(self, share: Share, priority: int) -> W | None:
        """A tenant's last in turn, if it is in this class or a later one."""
        for other in sorted(self._classes, reverse=True):
            if other < priority:
                break
            queue = self._classes[other].get(share)
            if queue is not None:
                return next(reversed(queue))
        return None

    def add(self, waiting: W) -> None:
        """One begins to wait."""
        share = waiting.share
        self._shares.wait(share)
        self.queued += waiting.weight
        self.held[share] = self.held.get(share, 0) + waiting.weight
        self._classes.setdefault(waiting.priority, {}).setdefault(share, OrderedDict())[waiting] = None

    def discard(self, waiting: W) -> None:
        """One waits no more."""
        share = waiting.share
        self.queued -= waiting.weight
        self.held[share] -= waiting.weight
        tenants = self._classes[waiting.priority]
        queue = tenants[share]
        del queue[waiting]
        if not queue:
            del tenants[share]
            if not tenants:
                del self._classes[waiting.priority]
        if not self.held[share]:
            del self.held[share]
        self._shares.wait_no_more(share)


def victim_of(comes: W, lines: Sequence[FairLine[W]]) -> W | None:
    """Who gives way to one that waits already, where there are too many.

    The newest of the least urgent ones of the tenant that holds most, over its weight.

    Args:
        comes: Who waits last; only those that are no more urgent give way to it.
        lines: Those that are full.

    Returns:
        None: No other tenant holds more than its own does, and so it is the one to go.
    """
    held = Counter[Share]()
    for line in lines:
        held.update(line.held)
    most = held[comes.share] / comes.share.weight
    victim: W | None = None
    for share, weight in held.items():
        if share is comes.share or weight / share.weight <= most:
            continue
        newest = [one for line in lines if (one := line.newest(share, comes.priority)) is not None]
        if newest:
            most = weight / share.weight
            victim = max(newest, key=lambda one: (one.priority, one.arrival))
    return victim
