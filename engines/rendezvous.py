"""Rendezvous hashing (Thaler and Ravishankar, 1998): who holds what, found alike by every process without talking."""

import math
from hashlib import blake2b

_BITS = 64


def draw(key: str, member: str) -> int:
    """The number that a member draws for a key, of 64 bits: the highest of all members' wins the key."""
    # The key's length keeps ("ab", "c") and ("a", "bc") apart.
    name = f"{len(key)}:{key}{member}"
    return int.from_bytes(blake2b(name.encode(), digest_size=_BITS // 8).digest(), "big")


def weighted_draw(key: str, member: str, weight: float) -> float:
    """The same where members have weights: each wins its weight's share of the keys.

    The logarithmic method of Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005).

    Args:
        key: What is to be placed.
        member: Who would hold it.
        weight: Its weight, above 0.
    """
    uniform = (draw(key, member) + 0.5) / 2**_BITS
    return -weight / math.log(uniform)
