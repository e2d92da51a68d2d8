"""Which chunks of text an engine has in its KV cache, by what it says of the blocks.

Routers know prompts by chunks of their text (`engines.prefix_chunks`), an engine its cache by blocks of tokens. Where
both meet, in the engine that has read the prompt, each chunk is tied to the last block that is full by its end. That
block's key says all that comes before it; so a chunk is cached when its block is stored, and is not when it is removed.

Where in the tokens a chunk ends is reckoned from the next ends that are known around it. What is reckoned too far shows
when two prompts have the chunk in common and not the block: then it is tied to an earlier one. An answer begins where
its prompt ends, and its own end is known.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from engines.block_keys import block_hashes
from engines.errors import PenstockError
from engines.events import Event, Finished, Started, TextDelta
from engines.prefix_chunks import Chunks, SentChain, plain_message, unpack
from engines.sink import Sink

MAX_CHUNKS = 100_000
"""About 35 MB. Of those that were used longest ago it is said that they are not cached."""
MAX_ANSWER_TOKENS = 100_000
"""A longer answer is not followed."""

Listener = Callable[[dict[int, int], list[int]], None]
"""Hears which chunks are cached now, each with how many tokens of full blocks end with it; and which no more."""


class _Chunk:
    """Where a chunk ends.

    Attributes:
        block: The key of the last block that is full by then.
        depth: How many blocks that makes.
        end: In tokens.
    """

    __slots__ = ("block", "depth", "end")

    def __init__(self, block: int, depth: int, end: int) -> None:
        self.block = block
        self.depth = depth
        self.end = end

    def tokens(self, block_size: int) -> int:
        """How many tokens are found of a prompt that begins with it: those of full blocks."""
        return self.depth * block_size if self.end >= block_size else 0


class CachedChunks:
    """The chunks that one engine has cached. It belongs to one event loop.

    Args:
        block_size: Tokens of a block.
        max_chunks: Most that are known.
    """

    def __init__(self, block_size: int, max_chunks: int = MAX_CHUNKS) -> None:
        self.block_size = block_size
        self._max_chunks = max_chunks
        self._stored: set[int] = set()
        # The one that was used longest ago first. Whether it is cached: whether its block is stored.
        self._chunks: OrderedDict[int, _Chunk] = OrderedDict()
        self._at: dict[int, list[int]] = {}
        self._cached: list[int] = []
        self._evicted: list[int] = []
        self._listeners: list[Listener] = []

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def blocks(self) -> int:
        """How many blocks are stored."""
        return len(self._stored)

    def listen(self, listener: Listener) -> None:
        """Lets somebody hear of every change from now on."""
        self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """Who listens hears of nothing any more."""
        self._listeners.remove(listener)

    def all(self) -> dict[int, int]:
        """The chunks that are cached, the one that was used longest ago first; each with its tokens of full blocks."""
        stored, size = self._stored, self.block_size
        # Written out, without a call for each: there are many.
        return {
            prefix: chunk.depth * size if chunk.end >= size else 0
            for prefix, chunk in self._chunks.items()
            if chunk.block in stored
        }

    def read(self, chain: SentChain, blocks: Sequence[int], tokens: int) -> None:
        """A prompt was read.

        Args:
            chain: Its chunks.
            blocks: The keys of its full blocks, in order.
            tokens: How many it has.
        """
        prefixes, ends = unpack(chain.prefixes), unpack(chain.ends)
        # What lies between two ends that are known is reckoned in proportion.
        places = [self._known(prefix, blocks) for prefix in prefixes]
        before_end, before_place = 0, 0
        for at, prefix in enumerate(prefixes):
            place = places[at]
            if place is None:
                share = (ends[at] - before_end) / max(1, chain.size - before_end)
                place = before_place + int(share * (tokens - before_place))
            else:
                before_end, before_place = ends[at], place
            self._tie(prefix, blocks, place)
        self._flush()

    def answered(self, chain: SentChain, text: str, blocks: Sequence[int], prompt_tokens: int, tokens: int) -> None:
        """A prompt was answered with nothing but text.

        Args:
            chain: The prompt's chunks.
            text: The answer.
            blocks: The keys of the full blocks of both, in order.
            prompt_tokens: How many the prompt has.
            tokens: How many both have.
        """
        if chain.state is None:
            return
        if prompt_tokens < self.block_size:
            # Its own chunks could be tied to no block so far: without them nobody would look for those of the answer.
            self.read(chain, blocks, prompt_tokens)
        chunks = Chunks(chain.state)
        began = chunks.size
        chunks.add(plain_message("assistant", text))
        chunks.close_message()
        size = max(1, chunks.size - began)
        for prefix, end in zip(chunks.prefixes, chunks.ends, strict=True):
            share = max(0, end - began) / size
            # The last token is not computed any more, and its block not stored.
            self._tie(prefix, blocks, min(tokens - 1, prompt_tokens + int(share * (tokens - prompt_tokens))))
        self._flush()

    def stored(self, blocks: Sequence[int]) -> None:
        """Blocks are stored."""
        for block in blocks:
            if block not in self._stored:
                self._stored.add(block)
                self._cached += self._at.get(block, ())
        self._flush()

    def removed(self, blocks: Sequence[int]) -> None:
        """Blocks are not stored any more."""
        for block in blocks:
            if block in self._stored:
                self._stored.discard(block)
                self._evict(block)
        self._flush()

    def cleared(self) -> None:
        """No block is stored any more."""
        for block in self._stored:
            self._evict(block)
        self._stored.clear()
        self._flush()

    def _evict(self, block: int) -> None:
        for prefix in self._at.pop(block, ()):
            del self._chunks[prefix]
            self._evicted.append(prefix)

    def _known(self, prefix: int, blocks: Sequence[int]) -> int | None:
        """Where a chunk ends that another prompt had, which agrees with this one up to there; else None."""
        chunk = self._chunks.get(prefix)
        if chunk is None or chunk.depth > len(blocks) or blocks[chunk.depth - 1] != chunk.block:
            return None
        return chunk.end

    def _tie(self, prefix: int, blocks: Sequence[int], end: int) -> None:
        """Ties a chunk to a block; earlier than to the one that it is tied to, where that is another prompt's."""
        depth = min(end // self.block_size, len(blocks))
        chunk = self._chunks.get(prefix)
        if chunk is not None:
            self._chunks.move_to_end(prefix)
            if chunk.depth <= len(blocks) and blocks[chunk.depth - 1] == chunk.block:
                return
            # What both have is stored, if any of the other is.
            stored = self._stored
            shared = next((at for at, block in enumerate(blocks[:depth]) if block not in stored), depth)
            depth = min(depth, chunk.depth - 1, max(1, shared))
            end = min(end, (depth + 1) * self.block_size - 1)
            self._untie(prefix, chunk)
        if depth <= 0:
            # Less than a block: it is worth nothing, and there as long as what it begins is.
            depth, end = 1, min(end, self.block_size)
            if not blocks:
                return
        block = blocks[depth - 1]
        self._chunks[prefix] = _Chunk(block, depth, end)
        self._at.setdefault(block, []).append(prefix)
        if block in self._stored:
            self._cached.append(prefix)
        if len(self._chunks) > self._max_chunks:
            oldest, chunk = next(iter(self._chunks.items()))
            self._untie(oldest, chunk)

    def _untie(self, prefix: int, chunk: _Chunk) -> None:
        del self._chunks[prefix]
        tied = self._at[chunk.block]
        tied.remove(prefix)
        if not tied:
            del self._at[chunk.block]
        if chunk.block in self._stored:
            self._evicted.append(prefix)

    def _flush(self) -> None:
        if not (self._cached or self._evicted):
            return
        # What became of those that are in both is what counts.
        chunks, stored, size = self._chunks, self._stored, self.block_size
        cached = {
            prefix: chunk.tokens(size)
            for prefix in self._cached
            if (chunk := chunks.get(prefix)) is not None and chunk.block in stored
        }
        evicted = [prefix for prefix in self._evicted if prefix not in cached]
        self._cached, self._evicted = [], []
        for listener in self._listeners:
            listener(cached, evicted)


class AnswerReader:
    """Passes a stream on, and reads its answer: the next prompt of the conversation begins with that.

    Args:
        sink: Where the stream goes.
        chunks: Hears of it.
        chain: The prompt's.
        prompt: Its token ids.
        blocks: The keys of its full blocks.
        root: The key of the empty prefix.
    """

    __slots__ = (
        "_blocks",
        "_chain",
        "_chunks",
        "_emit",
        "_ids",
        "_is_plain",
        "_prompt_tokens",
        "_root",
        "_sink",
        "_texts",
    )

    def __init__(
        self,
        sink: Sink,
        chunks: CachedChunks,
        chain: SentChain,
        prompt: Sequence[int],
        blocks: Sequence[int],
        root: int,
    ) -> None:
        self._sink = sink
        self._emit = sink.emit
        self._chunks = chunks
        self._chain = chain
        self._prompt_tokens = len(prompt)
        # Those that are in no full block of the prompt.
        self._ids = list(prompt[len(blocks) * chunks.block_size :])
        self._blocks = blocks
        self._root = root
        self._texts: list[str] = []
        self._is_plain = True

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        kind = event.__class__
        if kind is TextDelta:
            if self._is_plain:
                self._texts.append(event.text)  # type: ignore[union-attr]
                self._ids += event.token_ids  # type: ignore[union-attr]
                if len(self._ids) > MAX_ANSWER_TOKENS:
                    self._is_plain = False
                    self._texts.clear()
        elif kind is Finished:
            # Before its end is known, after which the next turn may come.
            if self._is_plain and self._texts:
                self._read()
        elif kind is not Started:
            self._is_plain = False
        self._emit(event)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream."""
        self._sink.fail(error)

    def _read(self) -> None:
        size, blocks = self._chunks.block_size, self._blocks
        blocks = [*blocks, *block_hashes(self._ids, size, blocks[-1] if blocks else self._root)]
        tokens = len(self._blocks) * size + len(self._ids)
        self._chunks.answered(self._chain, "".join(self._texts), blocks, self._prompt_tokens, tokens)
