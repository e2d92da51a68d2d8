"""A paged KV cache: blocks of tokens, shared between sequences that begin alike, evicted least recently used first.

A full block is known by the hash of its tokens and of everything before them, so equal hashes mean equal prefixes. A
block that nobody uses any more keeps its contents until it is needed for something else. This is how vLLM does it
(https://docs.vllm.ai/en/latest/design/prefix_caching.html).
"""

from collections import OrderedDict
from collections.abc import Sequence

from engines.cached_chunks import CachedChunks


class KVCache:
    """The blocks. A block is in use (by one sequence or more), or free; a free one may still hold known contents.

    Args:
        num_blocks: Number of blocks.
        caching: Whether contents are kept and found again.
        chunks: Hears of every change of what is known; None: nobody wants to know.
    """

    def __init__(self, num_blocks: int, *, caching: bool = True, chunks: CachedChunks | None = None) -> None:
        self.num_blocks = num_blocks
        self._caching = caching
        self._chunks = chunks
        self._users = [0] * num_blocks
        self._hash_of: list[int | None] = [None] * num_blocks
        self._block_of: dict[int, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def free(self) -> int:
        """Blocks that nobody uses."""
        return len(self._free)

    @property
    def use(self) -> float:
        """Share of the blocks in use, 0 to 1."""
        return 1.0 - len(self._free) / self.num_blocks

    def known(self, hashes: Sequence[int]) -> int:
        """How many of a sequence's first blocks the cache holds.

        Args:
            hashes: The hashes of its full blocks, in order.
        """
        for position, hash_ in enumerate(hashes):
            if hash_ not in self._block_of:
                return position
        return len(hashes)

    def open(self, hashes: Sequence[int], blocks: int) -> list[int] | None:
        """Takes the blocks of a new sequence: the known ones that it begins with, new ones after.

        Args:
            hashes: The hashes of its full blocks, in order.
            blocks: How many blocks it needs in all; no fewer than are known.

        Returns:
            The blocks; None, and nothing taken, when there is not enough room.
        """
        shared = [self._block_of[hash_] for hash_ in hashes[: self.known(hashes)]]
        new = blocks - len(shared)
        if new > len(self._free) - sum(1 for block in shared if not self._users[block]):
            return None
        for block in shared:
            if not self._users[block]:
                del self._free[block]
            self._users[block] += 1
        return shared + self._take(new)

    def extend(self, blocks: int) -> list[int] | None:
        """Takes more blocks; None, and nothing taken, when there are not enough."""
        return self._take(blocks) if blocks <= len(self._free) else None

    def publish(self, block: int, hash_: int) -> None:
        """Makes the contents of a block in use known. The first block with the same contents stays the known one."""
        assert self._users[block], "a free block has no contents to publish"
        if self._caching and self._hash_of[block] is None and hash_ not in self._block_of:
            self._hash_of[block] = hash_
            self._block_of[hash_] = block
            if self._chunks is not None:
                self._chunks.stored([hash_])

    def close(self, blocks: Sequence[int]) -> None:
        """Gives the blocks of a sequence back; what is known of them stays until the room is needed."""
        # The tail goes first: a prefix is worth more than what followed it, and useless without what came before.
        for block in reversed(blocks):
            assert self._users[block], "the block is free already"
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None
                if self._hash_of[block] is None:
                    self._free.move_to_end(block, last=False)  # Nothing is lost by taking it first.

    def clear(self) -> None:
        """Forgets all contents; nobody may use any of it."""
        assert len(self._free) == self.num_blocks, "a sequence has blocks of it"
        self._hash_of = [None] * self.num_blocks
        self._block_of.clear()
        if self._chunks is not None:
            self._chunks.cleared()

    def _take(self, blocks: int) -> list[int]:
        taken = [self._free.popitem(last=False)[0] for _ in range(blocks)]
        removed = []
        for block in taken:
            self._users[block] = 1
            known = self._hash_of[block]
            if known is not None:
                del self._block_of[known]
                self._hash_of[block] = None
                removed.append(known)
        if removed and self._chunks is not None:
            self._chunks.removed(removed)
        return taken
