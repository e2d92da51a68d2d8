"""Policies: pick one instance out of several.

Two of them weigh the work that a request finds and brings, in tokens (`deployments.routing.prefill_cost`); the others
look at no more than the loads, or at nothing.

A policy sees the candidates with their loads and the request, and answers at once: no I/O, no await, microseconds.
Whoever calls it counts the request against the chosen instance before anything else runs (`InstanceEgress.submit`
counts itself before it first waits), so that a burst does not pile onto one instance.
"""

import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from deployments.routing.cached_prefixes import CachedPrefixes
from deployments.routing.instance_cache import CachingInstance
from deployments.routing.prefill_cost import LoadedInstance, prefill_costs
from deployments.routing.prompt_chain import PromptChain
from engines.call_requests import Request
from engines.rendezvous import draw


class Candidate(LoadedInstance, CachingInstance, Protocol):
    """An instance that may be picked."""


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """Picks one instance out of several."""

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates, or None when none will do (there is none, or not the one that is asked for)."""


class RoundRobin:
    """Each in turn, in the order of their ids; an instance that joins or leaves does not upset the turn."""

    def __init__(self) -> None:
        self._last = ""

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates; None where none will do."""
        following = [candidate for candidate in candidates if candidate.id > self._last]
        chosen = min(following or candidates, key=_id, default=None)
        if chosen is not None:
            self._last = chosen.id
        return chosen


class Random:
    """Any of them."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates; None where none will do."""
        return self._rng.choice(candidates) if candidates else None


class PowerOfTwo:
    """The less loaded of two random ones (Mitzenmacher, 2001): near the least loaded, without the herd.

    Where several routers see loads that are a little old, all of them sending to the one least loaded instance is
    worse than each of them taking the better of two.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates; None where none will do."""
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        first, second = self._rng.sample(candidates, 2)
        return first if first.load <= second.load else second


class LeastLoaded:
    """The one with the least work before it, in tokens of prompts, and in requests; any of those that share it.

    Args:
        rng: Chooses among equals.
        tokens: How many tokens of prompt a request has.
    """

    def __init__(self, rng: random.Random | None = None, tokens: Callable[[Request], float] = lambda _: 0.0) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._tokens = tokens

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates; None where none will do."""
        if not candidates:
            return None
        return _least(candidates, [self._tokens(request)] * len(candidates), request, self._rng)


class KvAware:
    """The one that answers soonest: where the least is to be computed first, of the request itself and before it.

    Args:
        prefixes: What the instances have cached.
        chain: What routing knows of a request's prompt.
        rng: Chooses among equals.
    """

    def __init__(
        self,
        prefixes: CachedPrefixes,
        chain: Callable[[Request], PromptChain],
        rng: random.Random | None = None,
    ) -> None:
        self._prefixes = prefixes
        self._chain = chain
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates; None where none will do."""
        if not candidates:
            return None
        chain = self._chain(request)
        tokens = self._prefixes.prompt_tokens(chain)
        uncached = [tokens - cached for cached in self._prefixes.expected(chain, candidates)]
        return _least(candidates, uncached, request, self._rng)


class ByCache:
    """One policy where a candidate says what it has cached, another one where none does.

    Args:
        exact: The one.
        other: The other.
    """

    def __init__(self, exact: Policy, other: Policy) -> None:
        self._exact = exact
        self._other = other

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates; None where none will do."""
        tells = any(candidate.reports_cache for candidate in candidates)
        return (self._exact if tells else self._other).choose(candidates, request)


def _least(candidates: Sequence[C], uncached: Sequence[float], request: Request, rng: random.Random) -> C:
    """The one of the least cost, for a request of which each has so many tokens to compute.

    Among equals, requests of one session go to the same, whichever router they come to.
    """
    costs = prefill_costs(candidates, uncached)
    least = min(costs)
    equals = [candidate for candidate, cost in zip(candidates, costs, strict=True) if cost == least]
    session = request.session
    if session is None or len(equals) == 1:
        return rng.choice(equals)
    return max(equals, key=lambda candidate: draw(session.id, candidate.id))


class Direct:
    """The one that the request names."""

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates; None where none will do."""
        return next((candidate for candidate in candidates if candidate.id == request.instance), None)


def _id(candidate: Candidate) -> str:
    return candidate.id
