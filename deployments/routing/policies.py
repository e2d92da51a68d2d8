"""Policies: pick one instance out of several.

A policy sees the candidates with their loads and the request, and answers at once: no I/O, no await, microseconds.
Whoever calls it counts the request against the chosen instance before anything else runs (`InstanceEgress.submit`
counts itself before it first waits), so that a burst does not pile onto one instance.
"""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from deployments.model_settings import PolicyName
from engines.call_requests import Request


class Candidate(Protocol):
    """An instance that may be picked."""

    @property
    def id(self) -> str:
        """Its instance id."""

    @property
    def load(self) -> int:
        """Requests that it runs or queues, whoever sent them, as well as this process knows; n choices count as n."""


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
    """The one with the least load; any of those that share it."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates; None where none will do."""
        if not candidates:
            return None
        loads = [candidate.load for candidate in candidates]
        least = min(loads)
        return self._rng.choice([candidate for candidate, load in zip(candidates, loads, strict=True) if load == least])


class Direct:
    """The one that the request names."""

    def choose(self, candidates: Sequence[C], request: Request) -> C | None:
        """One of the candidates; None where none will do."""
        return next((candidate for candidate in candidates if candidate.id == request.instance), None)


def make_policy(name: PolicyName) -> Policy:
    """The policy that the fleet file names."""
    match name:
        case "round_robin":
            return RoundRobin()
        case "random":
            return Random()
        case "power_of_two":
            return PowerOfTwo()
        case "least_loaded":
            return LeastLoaded()


def _id(candidate: Candidate) -> str:
    return candidate.id
