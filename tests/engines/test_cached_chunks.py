import pytest

from engines.block_keys import block_hashes
from engines.cached_chunks import AnswerReader, CachedChunks
from engines.events import Finished, ReasoningDelta, Started, TextDelta, Usage
from engines.prefix_chunks import CHUNK_BYTES, ChainState, Chunks, SentChain, pack, plain_message
from engines.sink import Mailbox

SIZE = 16
DONE = Finished(("stop",), Usage(1, 1), "e")


class Heard:
    """What a listener knows by what it heard."""

    def __init__(self, chunks: CachedChunks) -> None:
        self.tokens: dict[int, int] = {}
        chunks.listen(self.hear)

    @property
    def cached(self) -> set[int]:
        return set(self.tokens)

    def hear(self, cached: dict[int, int], evicted: list[int]) -> None:
        for prefix in evicted:
            self.tokens.pop(prefix, None)
        self.tokens |= cached


def sent(*ends: int, size: int = 0, first: int = 1) -> SentChain:
    return SentChain(pack([first + at for at in range(len(ends))]), pack(list(ends)), size or ends[-1])


def keys(tokens: int, first: int = 0) -> list[int]:
    return block_hashes(list(range(first, first + tokens)), SIZE)


@pytest.fixture
def chunks() -> CachedChunks:
    return CachedChunks(SIZE)


def test_a_chunk_is_cached_from_when_its_last_full_block_is_stored_until_that_is_removed(chunks: CachedChunks) -> None:
    heard, blocks = Heard(chunks), keys(64)
    chunks.read(sent(100, 200, 300, 400), blocks, 64)
    assert not heard.cached
    chunks.stored(blocks[:2])
    assert heard.cached == {1, 2}
    chunks.stored(blocks[2:])
    assert heard.tokens == {1: 16, 2: 32, 3: 48, 4: 64} == chunks.all()
    chunks.removed(blocks[3:])
    assert heard.cached == {1, 2, 3}
    chunks.cleared()
    assert not heard.cached
    assert not chunks.all()
    assert not len(chunks)


def test_a_prompt_that_is_read_later_is_cached_as_far_as_its_blocks_are(chunks: CachedChunks) -> None:
    heard, blocks = Heard(chunks), keys(64)
    chunks.stored(blocks[:3])
    chunks.read(sent(100, 200, 300, 400), blocks, 64)
    assert heard.cached == {1, 2, 3}


def test_what_was_removed_and_is_stored_again_is_cached_again_once_it_is_read(chunks: CachedChunks) -> None:
    heard, blocks = Heard(chunks), keys(32)
    for _ in range(2):
        chunks.read(sent(100, 200), blocks, 32)
        chunks.stored(blocks)
        assert heard.cached == {1, 2}
        chunks.removed(blocks)
        assert not heard.cached


def test_an_end_that_was_reckoned_too_far_moves_to_what_both_prompts_have(chunks: CachedChunks) -> None:
    heard = Heard(chunks)
    tokens = list(range(64))
    one = block_hashes(tokens, SIZE)
    other = block_hashes(tokens[:40] + [999] * 24, SIZE)
    chunks.stored(one)
    # It ends within the third block; by its bytes it would end with the fourth.
    chunks.read(sent(400, size=400), one, 64)
    assert heard.tokens == {1: 64}
    chunks.read(sent(400, 500, size=500), other, 80)
    assert heard.tokens == {1: 32}
    chunks.removed(one[2:])
    assert heard.cached == {1}
    chunks.removed(one[1:2])
    assert not heard.cached


def test_an_answer_is_known_by_the_chunk_that_the_next_prompt_has_of_it(chunks: CachedChunks) -> None:
    heard = Heard(chunks)
    question, text = plain_message("user", "q" * 200), "a" * 300
    asked = Chunks(ChainState(b"key", b"", 0))
    asked.add(question)
    asked.close_message()
    state = asked.state
    following = Chunks(ChainState(b"key", b"", 0))
    for message in (question, plain_message("assistant", text), plain_message("user", "more" * 100)):
        following.add(message)
        following.close_message()

    prompt, answer = list(range(50)), list(range(100, 150))
    blocks = block_hashes(prompt, SIZE)
    chain = SentChain(pack(asked.prefixes), pack(asked.ends), asked.size, state)
    reader = AnswerReader(Mailbox(), chunks, chain, prompt, blocks, 0)
    chunks.read(chain, blocks, len(prompt))
    chunks.stored(block_hashes(prompt + answer, SIZE))
    assert heard.cached == set(asked.prefixes)
    for event in (Started("e", "m"), TextDelta(text, 0, tuple(answer)), DONE):
        reader.emit(event)
    assert heard.cached == set(following.prefixes[:2])


def test_a_prompt_of_less_than_a_block_is_known_with_the_answer_that_fills_it(chunks: CachedChunks) -> None:
    heard = Heard(chunks)
    asked = Chunks(ChainState(b"key", b"", 0))
    asked.add(plain_message("user", "q" * 200))
    asked.close_message()
    prompt, answer = list(range(SIZE - 2)), list(range(100, 120))
    chain = SentChain(pack(asked.prefixes), pack(asked.ends), asked.size, asked.state)
    chunks.read(chain, [], len(prompt))
    reader = AnswerReader(Mailbox(), chunks, chain, prompt, [], 0)
    chunks.stored(block_hashes(prompt + answer, SIZE))
    for event in (Started("e", "m"), TextDelta("a" * 300, 0, tuple(answer)), DONE):
        reader.emit(event)
    # Of the prompt alone no block is full.
    assert [heard.tokens.pop(prefix) for prefix in asked.prefixes] == [0]
    assert list(heard.tokens.values()) == [2 * SIZE]


def test_an_answer_that_is_more_than_text_is_not_known(chunks: CachedChunks) -> None:
    chain = SentChain(b"", b"", 0, ChainState(b"key", b"", 0))
    reader = AnswerReader(Mailbox(), chunks, chain, [1] * SIZE, [7], 0)
    for event in (ReasoningDelta("hm", 0, (1,)), TextDelta("x" * CHUNK_BYTES, 0, tuple(range(64))), DONE):
        reader.emit(event)
    assert not len(chunks)


def test_of_too_many_the_one_that_was_used_longest_ago_counts_as_evicted() -> None:
    chunks = CachedChunks(SIZE, max_chunks=3)
    heard, blocks = Heard(chunks), keys(64)
    chunks.stored(blocks)
    chunks.read(sent(100, 200, 300, 400), blocks, 64)
    assert len(chunks) == 3
    assert heard.cached == {2, 3, 4}
