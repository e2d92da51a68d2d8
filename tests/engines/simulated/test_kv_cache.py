"""The KV cache against a naive model of what is in which block."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from engines.block_keys import ROOT, block_hash
from engines.cached_chunks import CachedChunks
from engines.simulated.kv_cache import KVCache

BLOCKS = 12
Prefix = tuple[int, ...]
"""The contents of a block and of all before it: one small number stands for a block's tokens."""


def hashes(contents: Sequence[int]) -> list[int]:
    found = []
    parent = ROOT
    for content in contents:
        parent = block_hash(parent, (content,))
        found.append(parent)
    return found


class Caching(RuleBasedStateMachine):
    """Sequences come, grow, publish what they computed and go; the model knows who uses what."""

    sequences: Bundle[int] = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.cache = KVCache(BLOCKS)
        self.tables: dict[int, list[int]] = {}
        self.contents: dict[int, list[int]] = {}
        self.published: dict[int, Prefix] = {}  # by block
        self.next = 0

    @rule(target=sequences, contents=st.lists(st.integers(0, 1), min_size=1, max_size=6), more=st.integers(0, 3))
    def open(self, contents: list[int], more: int) -> int:
        key, self.next = self.next, self.next + 1
        expected = 0
        while expected < len(contents) and tuple(contents[: expected + 1]) in self.published.values():
            expected += 1
        assert self.cache.known(hashes(contents)) == expected
        free_before = self.cache.free
        needed = len(contents) + more
        known_blocks = {b for b, p in self.published.items() if p == tuple(contents[: len(p)]) and len(p) <= expected}
        revived = {block for block in known_blocks if not self._users(block)}
        blocks = self.cache.open(hashes(contents), needed)
        if needed - expected > free_before - len(revived):
            assert blocks is None
            assert self.cache.free == free_before, "a refusal takes nothing"
            self.tables[key] = self.contents[key] = []
            return key
        assert blocks is not None and len(blocks) == needed == len(set(blocks))
        assert set(blocks[:expected]) == known_blocks
        fresh = blocks[expected:]
        assert not any(self._users(block) for block in fresh), "a block in use was given away"
        for block in fresh:
            self.published.pop(block, None)
        self.tables[key], self.contents[key] = blocks, contents
        return key

    @rule(key=sequences)
    def publish(self, key: int) -> None:
        for position, (block, hash_) in enumerate(zip(self.tables[key], hashes(self.contents[key]), strict=False)):
            self.cache.publish(block, hash_)
            prefix = tuple(self.contents[key][: position + 1])
            if block not in self.published and prefix not in self.published.values():
                self.published[block] = prefix

    @rule(key=sequences, blocks=st.integers(1, 4))
    def extend(self, key: int, blocks: int) -> None:
        free_before = self.cache.free
        more = self.cache.extend(blocks)
        if blocks > free_before:
            assert more is None and self.cache.free == free_before
            return
        assert more is not None and len(more) == blocks == len(set(more))
        assert not any(self._users(block) for block in more)
        for block in more:
            self.published.pop(block, None)
        self.tables[key] = self.tables[key] + more

    @rule(key=consumes(sequences))
    def close(self, key: int) -> None:
        self.cache.close(self.tables.pop(key))

    @invariant()
    def nothing_leaks(self) -> None:
        used = {block for table in self.tables.values() for block in table}
        assert self.cache.free == BLOCKS - len(used)
        assert self.cache.use == 1 - self.cache.free / BLOCKS

    def _users(self, block: int) -> int:
        return sum(block in table for table in self.tables.values())


TestCaching = Caching.TestCase
TestCaching.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_the_least_recently_used_prefix_is_evicted_first_and_its_tail_before_its_head() -> None:
    cache = KVCache(4)
    for contents in ([1, 2], [3, 4]):
        blocks = cache.open([], 2)
        assert blocks is not None
        for block, hash_ in zip(blocks, hashes(contents), strict=True):
            cache.publish(block, hash_)
        cache.close(blocks)
    assert cache.extend(1) is not None
    assert cache.known(hashes([1, 2])) == 1
    assert cache.known(hashes([3, 4])) == 2


def test_without_caching_nothing_is_found_again() -> None:
    cache = KVCache(4, caching=False)
    blocks = cache.open([], 1)
    assert blocks is not None
    cache.publish(blocks[0], hashes([1])[0])
    assert cache.known(hashes([1])) == 0


def test_a_cache_that_was_cleared_knows_nothing_and_holds_as_much_as_before() -> None:
    cache = KVCache(4, chunks=(chunks := CachedChunks(1)))
    blocks = cache.open([], 2)
    assert blocks is not None
    for block, hash_ in zip(blocks, hashes([1, 2]), strict=True):
        cache.publish(block, hash_)
    cache.close(blocks)
    assert chunks.blocks == 2
    cache.clear()
    assert (cache.known(hashes([1, 2])), cache.free, chunks.blocks) == (0, 4, 0)
    assert cache.open(hashes([1, 2]), 4) is not None
