"""Adapter affinity: a request for a LoRA adapter goes where that is loaded, as long as nobody carries too much for it.

Where it is loaded nowhere, or only where there is too much to do, it is loaded by an instance that has a place free for
it; of several, by the one that rendezvous hashing gives it to, so that all requests of a burst, through all router
replicas, agree on one before any has told that it is loaded. Whoever carries more than `load_factor` times the mean is
passed over, as for sessions (`deployments.routing.affinity`): so an adapter that many ask for comes to be loaded on as
many instances as it keeps busy.
"""

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from deployments.routing.affinity import load_bound
from deployments.routing.policies import Candidate
from engines.rendezvous import draw


class AdapterCandidate(Candidate, Protocol):
    """An instance that may be picked for an adapter."""

    @property
    def adapters(self) -> Collection[str]:
        """The names of those that it has loaded, as it last said."""

    @property
    def max_loras(self) -> int:
        """How many it has loaded at a time."""


C = TypeVar("C", bound=AdapterCandidate)


def prefer(candidates: Sequence[C], adapter: str, load_factor: float) -> Sequence[C]:
    """Those of the candidates among which a request for an adapter should be sent.

    Args:
        candidates: Instances that can take it.
        adapter: Its name.
        load_factor: What is too much, as a multiple of the mean load.
    """
    if not candidates:
        return candidates
    loads = [candidate.load for candidate in candidates]
    bound = load_bound(loads, load_factor)
    # The least loaded is always under the bound, since the bound is over the mean.
    free = [candidate for candidate, load in zip(candidates, loads, strict=True) if load < bound]
    loaded = [candidate for candidate in free if adapter in candidate.adapters]
    if loaded:
        return loaded
    roomy = [candidate for candidate in free if len(candidate.adapters) < candidate.max_loras]
    return [max(roomy or free, key=lambda candidate: draw(adapter, candidate.id))]
