"""Which requests the steps of vLLM's cores have taken up, written where their host reads it also when a core is dead.

A core that dies, or hangs, answers nothing any more. What its last step held is all that can have been its end: who
waited in its queue then had no part in it. So each core notes a request before the first step that works on it, in
memory that it shares with its host. Only the standard library is imported here, for the core needs it first.
"""

import ctypes
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from multiprocessing import get_context
from typing import Any

_ENTRIES = 8192
"""So many that were taken up last are kept: more than a core takes up between two heartbeats."""
_KEY_BYTES = 8


def key_of(request_id: str) -> int:
    """The number under which a request of the core is noted."""
    return int.from_bytes(blake2b(request_id.encode(), digest_size=_KEY_BYTES).digest(), "little")


class StepRecord:
    """The host's end. It can be given to the processes that it starts by spawning, and to no others.

    Args:
        cores: How many cores there are at most on this host.
    """

    def __init__(self, cores: int) -> None:
        # A number of entries written so far, and then the entries, as a ring: one writer each, and so no lock.
        self._rings: Sequence[Any] = [
            get_context("spawn").RawArray(ctypes.c_uint64, 1 + _ENTRIES) for _ in range(cores)
        ]
        self._read = [0] * cores

    def writer(self, core: int) -> "StepWriter":
        """The core's end; `core` counts those of this host from 0."""
        return StepWriter(self._rings[core])

    def taken_up(self) -> set[int]:
        """The keys of the requests that steps have taken up since this was asked last, the latest 8,192 of a core."""
        keys: set[int] = set()
        for core, ring in enumerate(self._rings):
            written = ring[0]
            for entry in range(max(self._read[core], written - _ENTRIES), written):
                keys.add(ring[1 + entry % _ENTRIES])
            self._read[core] = written
        return keys


class StepWriter:
    """A core's end of the record."""

    __slots__ = ("_ring", "_written")

    def __init__(self, ring: Any) -> None:
        self._ring = ring
        self._written = 0

    def add(self, request_ids: Iterable[str]) -> None:
        """Notes that the next step works on these, which it did not before. Costs about a microsecond each."""
        for request_id in request_ids:
            self._ring[1 + self._written % _ENTRIES] = key_of(request_id)
            self._written += 1
        self._ring[0] = self._written
