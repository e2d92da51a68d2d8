"""What vLLM's core says of its cache: batches as it packs them, and what a real one says."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from deployments.routing.prompt_chain import ChainHasher
from engines.block_keys import block_hashes
from engines.cached_chunks import CachedChunks
from engines.completion import collect
from engines.context import Context
from engines.messages import Message
from engines.prefix_chunks import SentChain, pack
from engines.vllm.engine import VllmEngine
from engines.vllm.options import VllmOptions
from tests.deployments.waiting import until
from tests.engines.vllm.asking import chat
from tests.lazily import lazily, needs

needs("vllm", "its events are what this is about")

arguments = lazily("engines.vllm.arguments")
kv_events = lazily("engines.vllm.kv_events")
vllm_events = lazily("vllm.distributed.kv_events")

SIZE = 16


def stored(tokens: list[int], hashes: list[bytes], parent: bytes | None = None, **fields: Any) -> Any:
    whole = {
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }
    return vllm_events.BlockStored(
        block_hashes=hashes, parent_block_hash=parent, token_ids=tokens, block_size=SIZE, **{**whole, **fields}
    )


def removed(*hashes: bytes, group: int = 0) -> Any:
    return vllm_events.BlockRemoved(block_hashes=list(hashes), medium="GPU", group_idx=group)


class Cache:
    """A cache of which one prompt of four blocks and four chunks is known."""

    def __init__(self, salt: str = "", adapter: str = "") -> None:
        self.tokens = list(range(4 * SIZE))
        self.chunks = CachedChunks(SIZE)
        self.events = kv_events.KvEvents("", self.chunks)
        blocks = block_hashes(self.tokens, SIZE, kv_events.root_key(salt, adapter))
        self.chunks.read(SentChain(pack([1, 2, 3, 4]), pack([1, 2, 3, 4]), 4), blocks, len(self.tokens))
        self._number = 0

    def say(self, *events: Any, lost: int = 0) -> list[int]:
        """The core says something; which chunks are cached then."""
        self.events.take(
            self._number + lost, msgspec.msgpack.encode(vllm_events.KVEventBatch(ts=0.0, events=list(events)))
        )
        self._number += lost + 1
        return sorted(self.chunks.all())


def test_blocks_are_found_by_their_tokens_whatever_the_core_calls_them() -> None:
    cache = Cache()
    assert cache.say(stored(cache.tokens[:32], [b"a", b"b"])) == [1, 2]
    assert cache.say(stored(cache.tokens[32:], [b"c", b"d"], b"b"), removed(b"d")) == [1, 2, 3]
    assert cache.say(removed(b"nobody's"), removed(b"b")) == [1, 3]
    assert cache.say(vllm_events.AllBlocksCleared()) == []


def test_a_salt_and_an_adapter_have_blocks_of_their_own() -> None:
    cache = Cache("salt", "adapter")
    assert cache.say(stored(cache.tokens, [b"a", b"b", b"c", b"d"])) == []
    keys = [("adapter", "salt"), ("adapter",), ("adapter",), ("adapter",)]
    assert cache.say(
        stored(cache.tokens, [b"e", b"f", b"g", b"h"], lora_name="adapter", lora_id=1, extra_keys=keys)
    ) == [1, 2, 3, 4]


def test_other_layers_and_other_memory_do_not_count() -> None:
    cache = Cache()
    assert cache.say(stored(cache.tokens, [b"a", b"b", b"c", b"d"], medium="CPU")) == []
    assert cache.say(stored(cache.tokens, [b"a", b"b", b"c", b"d"], kv_cache_spec_kind="sliding_window")) == []
    assert cache.say(stored(cache.tokens, [b"a", b"b", b"c", b"d"])) == [1, 2, 3, 4]
    assert cache.say(removed(b"d", group=1)) == [1, 2, 3, 4]
    assert cache.say(removed(b"d")) == [1, 2, 3]


def test_events_that_are_lost_leave_nothing_known_that_may_be_gone() -> None:
    cache = Cache()
    assert cache.say(stored(cache.tokens[:32], [b"a", b"b"])) == [1, 2]
    assert cache.say(stored(cache.tokens[32:], [b"c", b"d"], b"b"), lost=1) == []
    assert cache.events.lost == 1


@pytest.mark.asyncio(loop_scope="session")
async def test_when_they_cannot_be_followed_any_more_nothing_is_taken_for_cached(tmp_path: Path) -> None:
    cache = Cache()
    assert cache.say(stored(cache.tokens[:32], [b"a", b"b"])) == [1, 2]
    endpoint = f"ipc://{tmp_path}/events"
    with zmq.asyncio.Context.instance().socket(zmq.PUB) as core:
        core.linger = 0
        core.bind(endpoint)
        events = kv_events.KvEvents(endpoint, cache.chunks)
        events.open()
        try:
            async with asyncio.timeout(30):
                while cache.chunks.all():  # It may not have subscribed yet.
                    await core.send_multipart([b"", bytes(8), b"no batch at all"])
                    await asyncio.sleep(0.01)
        finally:
            events.close()


def test_several_ranks_of_data_are_not_followed() -> None:
    followed = [
        arguments.engine_args(VllmOptions(model="demo", engine_args={"data_parallel_size": ranks}), 1).kv_events_config
        is not None
        for ranks in (1, 2)
    ]
    assert followed == [True, False]


@pytest.mark.asyncio(loop_scope="session")
async def test_a_real_core_says_that_a_prompt_and_its_answer_are_cached(vllm_engine: VllmEngine) -> None:
    hasher = ChainHasher("demo", lambda: b"key")
    first = chat("count from 2 to 293", sampling={"max_tokens": 600})
    first = first.model_copy(update={"prefixes": hasher.chain(first).sent()})
    answer = await collect(vllm_engine.generate(first, Context()))
    assert first.messages is not None
    said = Message(role="assistant", content=answer.text)
    following = first.model_copy(update={"messages": [*first.messages, said, Message(role="user", content="go on")]})
    chain = hasher.chain(following)
    *answered, last = chain.prefixes
    assert answered
    chunks = vllm_engine.cached_chunks
    assert chunks is not None and vllm_engine.capabilities.reports_cache
    await until(lambda: chunks.all().keys() >= set(answered))
    assert last not in chunks.all()
    second = await collect(vllm_engine.generate(following.model_copy(update={"prefixes": chain.sent()}), Context()))
    # Of the answer as well, in whole blocks, and as many as was said.
    assert second.usage.cached_tokens >= chunks.block_size > answer.usage.prompt_tokens
    assert second.usage.cached_tokens == chunks.all()[answered[-1]]
