"""Which instances hold which prefixes: the hash of a prefix, to the set of those that have it cached.

A set is an int, one bit for each instance, and a prefix is known by an int, too: nothing is made for each of a million
prefixes but what a dictionary keeps. Sets are few and shared. Memory is bounded by two generations: what is put in
lands in the young one, and when that is full the old one is forgotten. Whoever holds a prefix holds what it begins
with, so putting a whole chain in lets no prefix outlive what it begins with.
"""

from collections.abc import Sequence

MAX_PREFIXES = 1_000_000
"""About 80 bytes each."""
_MAX_SETS = 65_536
"""Sets that are shared; with more of them than that sharing saves nothing."""


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

        It skips over what is held alike: where the prefixes of a slot are not all there from the first one on, as when
        some have been forgotten, it may count over the gap.

        Args:
            chain: The prompt's prefixes, the shortest first.
            slots: The set of those that are asked about.

        Returns:
            Pairs of a number of prefixes and the set of slots that hold so many, the fewest first; each slot is in one.
        """
        young, old = self._young.get, self._old.get
        depths: list[tuple[int, int]] = []
        end = len(chain)
        depth = 0  # All of `slots` hold so many.
        while slots:
            if depth == end:
                depths.append((end, slots))
                break
            prefix = chain[depth]
            holders = slots & (young(prefix) or old(prefix, 0))
            if holders != slots:
                depths.append((depth, slots ^ holders))
                slots = holders
                if not slots:
                    break
            # All that are left hold the one at `depth`; find the last one that they all hold.
            depth += 1
            step = 1
            missing = end  # The first position that is known to be missed by one of them.
            while depth < missing:
                at = min(depth + step, missing) - 1
                prefix = chain[at]
                if slots & (young(prefix) or old(prefix, 0)) == slots:
                    depth = at + 1
                    step *= 2
                else:
                    missing = at
                    step = 1 + (missing - depth) // 2
        return depths
