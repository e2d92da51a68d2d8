"""The prefixes of one instance: in the order of their use, with what is known of each."""

from collections import OrderedDict
from math import inf
from typing import Protocol

UNKNOWN_CACHE_TOKENS = 100_000
"""What a cache is taken to hold that does not say."""
UNSAID = -1
"""Tokens of a prefix of which its instance has said nothing yet."""


class CachingInstance(Protocol):
    """An instance, as far as its cache matters."""

    @property
    def id(self) -> str:
        """Its instance id."""

    @property
    def incarnation(self) -> int:
        """Another one has another cache."""

    @property
    def cache_tokens(self) -> int:
        """How many tokens its cache holds; 0: it does not say."""

    @property
    def cache_block_tokens(self) -> int:
        """How many of them one block holds."""

    @property
    def reports_cache(self) -> bool:
        """Whether it says what is in there."""

    @property
    def written_tokens(self) -> int:
        """How many were put into it so far."""


class InstanceCache:
    """What one instance has cached, or what a router replica takes it to have.

    Args:
        slot: Its number in the index.
        incarnation: The instance's.
    """

    __slots__ = ("change", "first_due_s", "incarnation", "own_tokens", "predicted", "share", "slot", "used")

    def __init__(self, slot: int, incarnation: int) -> None:
        self.slot = slot
        self.incarnation = incarnation
        # By prefix, the one that was used longest ago first: how many tokens had been put in by then. Where the
        # instance says what it has cached: how many tokens it has of it, or `UNSAID`.
        self.used: OrderedDict[int, int] = OrderedDict()
        # Those of them that nothing was heard of yet, and until when that is waited for.
        self.predicted: dict[int, float] = {}
        self.first_due_s = inf  # No later than the first of these times.
        self.change: int | None = None  # The number of the last that was heard; None: the instance does not say.
        self.share = 1.0  # Of what the cache says that it holds.
        self.own_tokens = 0  # Put in by requests of this replica.

    @property
    def is_exact(self) -> bool:
        """Whether the instance says what it has cached."""
        return self.change is not None

    def expect(self, prefix: int, until_s: float) -> None:
        """Waits until then for the word that a prefix is cached."""
        self.predicted[prefix] = until_s
        self.first_due_s = min(self.first_due_s, until_s)

    def said(self, prefix: int) -> int | None:
        """How many tokens it has of a prefix, by its own word; None where it has said nothing of it."""
        if self.change is None:
            return None
        tokens = self.used.get(prefix, UNSAID)
        return None if tokens == UNSAID else tokens

    def written(self, instance: CachingInstance) -> int:
        """How many tokens were put in so far: an engine that does not tell is known by what it was sent."""
        return max(instance.written_tokens, self.own_tokens)

    def size(self, instance: CachingInstance) -> float:
        """How many tokens it holds."""
        return self.share * (instance.cache_tokens or UNKNOWN_CACHE_TOKENS)
