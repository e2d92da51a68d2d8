"""Which instances hold which prefixes: the hash of a prefix, to the set of those that have it cached.

A set is an int, one bit for each instance, and a prefix is known by an int, too: nothing is made for each of a million
prefixes but what a dictionary keeps. Sets are few and shared. Memory is bounded by two generations: what is put in
lands in the young one, and when that is full the old one is forgotten. Whoever holds a prefix holds what it begins
with, so putting a whole chain in lets no prefix outlive what it begins with.
"""

from collections.abc import Sequence
from itertools import repeat

MAX_PREFIXES = 1_000_000
"""About 80 bytes each."""
_MAX_SETS = 65_536
"""Sets that are shared; with more of them than that sharing saves nothing."""

_SCANNED = 12
"""Prefixes of a stretch, for each slot that does not hold all of it, that are looked through and not halved."""


class PrefixIndex:
    """The prefixes that some instance holds.

    An instance is a slot here: a small number, of which its bit in a set is made.

    Args:
        max_prefixes: Most that are remembered; beyond it those that were put in longest ago are forgotten.
    """

    def __init__(self, max_prefixes: int = MAX_PREFIXES) -> None:
        self._max_young = max(1, max_prefixes // 2)
        # No prefix is in both.
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._sets: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def holders(self, prefix: int) -> int:
        """The set of the slots that hold a prefix."""
        return self._young.get(prefix) or self._old.get(prefix, 0)

    def add(self, prefixes: Sequence[int], slot: int) -> None:
        """A slot holds these prefixes now.

        Args:
            prefixes: Those of one prompt, the shortest first.
            slot: Who holds them.
        """
        bit = 1 << slot
        sets = self._sets
        if len(sets) > _MAX_SETS:
            sets.clear()
        share = sets.setdefault
        # Their ends first: where the generation turns in the midst of a chain, it is they that are forgotten earlier.
        rest = prefixes[::-1]
        while rest:
            young, old = self._young, self._old
            room = self._max_young - len(young)
            if room <= 0:
                self._young, self._old = {}, young
                continue
            now, rest = rest[:room], rest[room:]
            forget = old.pop
            get = young.get
            if not old:
                for prefix in now:
                    held = get(prefix, 0) | bit
                    young[prefix] = share(held, held)
                continue
            for prefix in now:
                held = get(prefix) or forget(prefix, 0)
                held |= bit
                young[prefix] = share(held, held)

    def remove(self, prefixes: Sequence[int], slot: int) -> None:
        """A slot holds these prefixes no more, if it did."""
        bit = 1 << slot
        for prefix in prefixes:
            generation = self._young
            held = generation.get(prefix)
            if held is None:
                generation = self._old
                held = generation.get(prefix)
                if held is None:
                    continue
            held &= ~bit
            if held:
                generation[prefix] = self._sets.setdefault(held, held)
            else:
                del generation[prefix]

    def clear(self, slot: int) -> None:
        """A slot holds nothing any more. Looks at every prefix: an instance that leaves is rare."""
        for generation in (self._young, self._old):
            bit = 1 << slot
            self.remove([prefix for prefix, held in generation.items() if held & bit], slot)

    def depths(self, chain: Sequence[int], slots: int) -> list[tuple[int, int]]:
        """How far into a prompt each slot holds its prefixes.

        Between two prefixes that the same slots hold it looks at none: where the prefixes of a slot are not all there
        from the first one on, as when some have been forgotten, it may count over the gap.

        Args:
            chain: The prompt's prefixes, the shortest first.
            slots: The set of those that are asked about.

        Returns:
            Pairs of a number of prefixes and the set of slots that hold so many, the fewest first; each slot is in one.
        """
        if not (chain and slots):
            return [(0, slots)] if slots else []
        young, old = self._young.get, self._old.get
        holders = slots & (young(chain[0]) or old(chain[0], 0))
        depths = [(0, slots ^ holders)] if holders != slots else []
        to_the_end = holders & (young(chain[-1]) or old(chain[-1], 0))
        # Stretches of the chain, the first one on top: each from a prefix, with those that hold all up to it, to
        # another one, with those of them that hold that as well.
        stretches = [(0, holders, len(chain) - 1, to_the_end)]
        while stretches:
            first, holders, last, remaining = stretches.pop()
            while holders != remaining:
                if last - first > _SCANNED * (holders ^ remaining).bit_count():
                    middle = (first + last) // 2
                    prefix = chain[middle]
                    still = holders & (young(prefix) or old(prefix, 0)) | remaining
                    stretches.append((middle, still, last, remaining))
                    last, remaining = middle, still
                    continue
                some = chain[first + 1 : last + 1]
                known = -1
                # In one go, which costs a third of what as many calls do; sets that are equal are mostly the same.
                for held in map(young, some, map(old, some, repeat(0))):
                    first += 1
                    if held is not known:
                        known = held
                        still = holders & held | remaining
                        if still != holders:
                            depths.append((first, holders ^ still))
                            holders = still
                            if holders == remaining:
                                break
                break
        if to_the_end:
            depths.append((len(chain), to_the_end))
        return depths
