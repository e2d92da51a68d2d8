"""Who is awake is asked before anybody is woken.

For policies that do not weigh what waking takes; in a cost in seconds it is a term like the others
(`deployments.routing.prefill_cost`).
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class SleepingInstance(Protocol):
    """An instance, as far as its sleep matters."""

    @property
    def load(self) -> int:
        """Requests that it runs or queues, whoever sent them, as well as this process knows."""

    @property
    def is_full(self) -> bool:
        """Whether requests wait there for others to end, as it last said."""

    @property
    def is_asleep(self) -> bool:
        """Whether it must wake first, as it last said."""


C = TypeVar("C", bound=SleepingInstance)


def prefer_awake(candidates: Sequence[C]) -> Sequence[C]:
    """Those of the candidates that should have a request: another is woken only where all that are awake are full."""
    if not any(candidate.is_asleep for candidate in candidates):
        return candidates
    ranks = [_rank(candidate) for candidate in candidates]
    first = min(ranks)
    return [candidate for candidate, rank in zip(candidates, ranks, strict=True) if rank == first]


def _rank(candidate: SleepingInstance) -> int:
    if candidate.is_full:
        return 3
    if not candidate.is_asleep:
        return 0
    # Where there are requests, it is being woken for them.
    return 1 if candidate.load else 2
