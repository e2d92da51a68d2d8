"""What vLLM's core says of the blocks of its KV cache, over the publisher that vLLM has for that.

Its hashes are the core's own; a block is known here by its tokens and those before it, so that the prompts that are
rendered here can be found in it. Events are numbered: where some are lost, all that is known is forgotten, and what is
stored from then on is known again. A cache is then taken for emptier than it is, never for fuller.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import MEDIUM_GPU, AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch

from engines.block_keys import block_hash
from engines.cached_chunks import CachedChunks
from engines.vllm.socket_folder import socket_folder

logger = logging.getLogger(__name__)

_FULL = ("full_attention", "mla_attention", None)
"""Kinds of attention whose blocks hold all of a prefix: what a window has lost is no end of it."""


def events_config() -> KVEventsConfig:
    """Lets one core publish its events where nobody else on this machine can read them."""
    endpoint = f"ipc://{socket_folder()}/{secrets.token_hex(4)}"
    return KVEventsConfig(enable_kv_cache_events=True, publisher="zmq", endpoint=endpoint)


def root_key(salt: str, adapter: str) -> int:
    """The key of the empty prefix."""
    return hash((salt, adapter))


class KvEvents:
    """Follows one core's events.

    Args:
        endpoint: Where it publishes them.
        chunks: Hears what they come to.

    Attributes:
        lost: How often some were lost.
    """

    def __init__(self, endpoint: str, chunks: CachedChunks) -> None:
        self.lost = 0
        self._endpoint = endpoint
        self._chunks = chunks
        self._keys: dict[Any, int] = {}  # By the core's hashes.
        self._group: int | None = None  # Layers of other kinds have blocks of the same hashes.
        self._next = 0
        self._decoder = msgspec.msgpack.Decoder(KVEventBatch)
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Starts to follow them."""
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="events of the KV cache")
        self._task.add_done_callback(self._ended)

    def close(self) -> None:
        """Follows no more."""
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        with zmq.asyncio.Context.instance().socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.subscribe(b"")
            socket.connect(self._endpoint)
            while True:
                batches = [await socket.recv_multipart()]
                with suppress(zmq.Again):
                    while True:
                        batches.append(await socket.recv_multipart(zmq.NOBLOCK))
                for _, number, data in batches:
                    self.take(int.from_bytes(number, "big"), data)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # What is not heard of any more must not be taken for cached for ever.
            self.clear()
            logger.error("What the KV cache holds is not followed any more.", exc_info=error)

    def clear(self) -> None:
        """Nothing is cached any more, whatever was said before."""
        self._keys.clear()
        self._chunks.cleared()

    def take(self, number: int, data: bytes) -> None:
        """Takes a batch of events.

        Args:
            number: 0 for the core's first, then one more for each.
            data: As the core packed it.
        """
        if number != self._next:
            self.lost += 1
            logger.warning("Events %d to %d of the KV cache were lost.", self._next, number - 1)
            self.clear()
        self._next = number + 1
        for event in self._decoder.decode(data).events:
            match event:
                case BlockStored():
                    self._stored(event)
                case BlockRemoved():
                    self._removed(event)
                case AllBlocksCleared():
                    self.clear()

    def _stored(self, event: BlockStored) -> None:
        size = event.block_size
        if (
            event.medium not in (MEDIUM_GPU, None)
            or event.kv_cache_spec_kind not in _FULL
            or size != self._chunks.block_size
        ):
            return
        if self._group is None:
            self._group = event.group_idx
        if event.group_idx != self._group:
            return
        extras = event.extra_keys or [None] * len(event.block_hashes)
        if len(event.token_ids) != size * len(event.block_hashes):
            return  # Some of its blocks are left out.
        if event.parent_block_hash is None:
            key = root_key(_salt(extras[0], event.lora_name), event.lora_name or "")
        else:
            known = self._keys.get(event.parent_block_hash)
            if known is None:
                return  # What comes before it was lost.
            key = known
        stored = []
        for at, hash_ in enumerate(event.block_hashes):
            key = block_hash(key, event.token_ids[at * size : (at + 1) * size])
            if media := [extra for extra in extras[at] or () if isinstance(extra, list | tuple)]:
                key = hash((key, str(media)))
            self._keys[hash_] = key
            stored.append(key)
        self._chunks.stored(stored)

    def _removed(self, event: BlockRemoved) -> None:
        if event.medium not in (MEDIUM_GPU, None) or event.group_idx != self._group:
            return
        keys = (self._keys.pop(hash_, None) for hash_ in event.block_hashes)
        self._chunks.removed([key for key in keys if key is not None])


def _salt(extras: Sequence[Any] | None, adapter: str | None) -> str:
    """The salt among what the first block of a prompt is known by besides its tokens."""
    others = [extra for extra in extras or () if isinstance(extra, str)]
    if adapter is not None and adapter in others:
        others.remove(adapter)
    return others[0] if others else ""
