"""Continuous batching: which sequences get how many tokens in the next step.

Every step serves the running sequences first, in order of priority and arrival, then admits waiting ones, until the
step's tokens are given out. A prompt that does not fit in one step is computed in several. When the KV cache is full
the last of the running sequences is preempted: it gives its blocks back and waits to be computed again.
"""

from bisect import insort
from typing import TYPE_CHECKING

from engines.block_keys import ROOT, block_hashes
from engines.simulated.answer import Writer
from engines.simulated.kv_cache import KVCache
from engines.simulated.output import Output

if TYPE_CHECKING:
    from engines.simulated.stream import SimulatedStream


class Sequence:
    """The tokens of one choice, and how far they are computed.

    Attributes:
        key: Its place among the others: smaller is served first.
        stream: The request that it belongs to.
        index: The choice's index.
        prompt_tokens: How many of the tokens are the prompt.
        tokens: Prompt and answer.
        computed: How many of the tokens are in the KV cache.
        blocks: Where they are; empty while it waits.
        published: How many of its full blocks were offered to the cache.
        capacity: How many tokens its blocks can hold.
        cached: Tokens that were found there when it first ran; None before.
        writer: Where the answer's tokens come from.
        output: What makes events of them.
        over: Whether it has ended.

    Args:
        hashes: Those of the full blocks of its prompt, or of the first of them; the others are made when needed.
        root: The hash of the empty prefix.
    """

    __slots__ = (
        "_hashes",
        "_root",
        "blocks",
        "cached",
        "capacity",
        "computed",
        "index",
        "key",
        "output",
        "over",
        "prompt_tokens",
        "published",
        "stream",
        "tokens",
        "writer",
    )

    def __init__(
        self,
        key: tuple[int, int, int],
        stream: "SimulatedStream",
        prompt: list[int],
        resumed: list[int],
        writer: Writer,
        output: Output,
        hashes: list[int],
        root: int = ROOT,
    ) -> None:
        self.key = key
        self.stream = stream
        self.index = key[2]
        self.tokens = prompt + resumed
        self.writer = writer
        self.output = output
        self.blocks: list[int] = []
        self.capacity = 0
        self.computed = 0
        self.published = 0
        self.cached: int | None = None
        self.over = False
        self.prompt_tokens = len(prompt)
        self._hashes = list(hashes)
        self._root = root

    def advance(self) -> int:
        """Appends the next token of the answer and returns its id."""
        token_id = self.writer.token(len(self.tokens) - self.prompt_tokens)
        self.tokens.append(token_id)
        return token_id

    def hashes(self, block_size: int, blocks: int) -> list[int]:
        """The hashes of its first blocks, at least `blocks` of them, which are full."""
        known = self._hashes
        if len(known) < blocks:
            start = len(known) * block_size
            parent = known[-1] if known else self._root
            known += block_hashes(self.tokens[start : blocks * block_size], block_size, parent)
        return known


class Scheduler:
    """The running and the waiting sequences, and their blocks.

    Args:
        cache: The KV cache.
        block_size: Tokens in a block.
        max_num_seqs: Sequences in one step.
        max_batched_tokens: Tokens in one step.
    """

    def __init__(self, cache: KVCache, *, block_size: int, max_num_seqs: int, max_batched_tokens: int) -> None:
        self._cache = cache
        self._block_size = block_size
        self._max_num_seqs = max_num_seqs
        self._max_batched_tokens = max_batched_tokens
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.preemptions = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Lets a sequence wait for its turn."""
        insort(self.waiting, sequence, key=_key)

    def remove(self, sequence: Sequence) -> None:
        """Ends a sequence, wherever it is; its blocks are free at once."""
        if sequence.over:
            return
        sequence.over = True
        if sequence.blocks:
            self.running.remove(sequence)
            self._cache.close(sequence.blocks)
        else:
            self.waiting.remove(sequence)

    def schedule(self) -> list[tuple[Sequence, int]]:
        """Chooses the next step: sequences, and how many tokens each computes in it."""
        batch: list[tuple[Sequence, int]] = []
        budget = self._max_batched_tokens
        preempted = self.preemptions
        position = 0
        # Preemption takes from the end of the list, so what was passed already stays in the step.
        while position < len(self.running) and budget:
            sequence = self.running[position]
            tokens = len(sequence.tokens) - sequence.computed
            if tokens > budget:
                tokens = budget
            if sequence.computed + tokens > sequence.capacity and not self._grow(sequence, tokens):
                break  # It was the last one, and preempted itself.
            batch.append((sequence, tokens))
            budget -= tokens
            position += 1
        while self.waiting and budget and len(self.running) < self._max_num_seqs and self.preemptions == preempted:
            sequence = self.waiting[0]
            tokens = self._admit(sequence, budget)
            if not tokens:
                break  # Nobody overtakes: a long prompt would wait for ever behind short ones.
            del self.waiting[0]
            insort(self.running, sequence, key=_key)
            batch.append((sequence, tokens))
            budget -= tokens
        return batch

    def computed(self, sequence: Sequence, tokens: int) -> bool:
        """Notes what a step has computed. Returns whether the sequence now gets its next token."""
        sequence.computed += tokens
        size = self._block_size
        full = sequence.computed // size
        if full > sequence.published:
            hashes = sequence.hashes(size, full)
            for block in range(sequence.published, full):
                self._cache.publish(sequence.blocks[block], hashes[block])
            sequence.published = full
        return sequence.computed == len(sequence.tokens)

    def _admit(self, sequence: Sequence, budget: int) -> int:
        size = self._block_size
        total = len(sequence.tokens)
        # The last token is computed in any case: its step is what gives the next one.
        findable = (total - 1) // size
        known = sequence.hashes(size, findable)[:findable]
        cached = self._cache.known(known) * size
        tokens = min(total - cached, budget)
        blocks = self._cache.open(known, -(-(cached + tokens) // size))
        if blocks is None:
            return 0
        sequence.blocks = blocks
        sequence.capacity = len(blocks) * size
        sequence.computed = cached
        sequence.published = cached // size
        if sequence.cached is None:
            sequence.cached = cached
        return tokens

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Takes the blocks for more tokens, from the last of the running sequences if need be."""
        blocks = -(-(sequence.computed + tokens) // self._block_size) - len(sequence.blocks)
        while (more := self._cache.extend(blocks)) is None:
            victim = self.running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks += more
        sequence.capacity = len(sequence.blocks) * self._block_size
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self._cache.close(sequence.blocks)
        sequence.blocks = []
        sequence.capacity = sequence.computed = sequence.published = 0
        self.add(sequence)


def _key(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.key
