"""Which requests the steps of vLLM's cores have taken up, written where their host reads it also when a core is dead.

A core that dies, or hangs, answers nothing any more. What its last step held is all that can have been its end: who
waited in its queue then had no part in it. So each core notes a request before the first step that works on it, in
memory that it shares with its host.
"""

import mmap
import os
import tempfile
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from engines.vllm.socket_folder import socket_folder

_ENTRIES = 8192
"""So many that were taken up last are kept: more than a core takes up between two heartbeats."""
_WORDS = 1 + _ENTRIES
"""A ring's words of 8 bytes: how many entries were written so far, and the entries. It has one writer, and no lock."""
_WORD_BYTES = 8


def key_of(request_id: str) -> int:
    """The number under which a request of the core is noted."""
    return int.from_bytes(blake2b(request_id.encode(), digest_size=_WORD_BYTES).digest(), "little")


class StepRecord:
    """The host's end.

    Args:
        cores: How many cores there are at most on this host.

    Attributes:
        path: The file by which they share it; it goes with the host.
    """

    def __init__(self, cores: int) -> None:
        descriptor, path = tempfile.mkstemp(prefix="steps-", dir=socket_folder())
        os.ftruncate(descriptor, cores * _WORDS * _WORD_BYTES)
        os.close(descriptor)
        self.path = Path(path)
        self._rings = [_ring(self.path, core) for core in range(cores)]
        self._read = [0] * cores

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
    """A core's end.

    Args:
        path: The record's.
        core: Which of its host's cores this is, from 0.
    """

    def __init__(self, path: Path, core: int) -> None:
        self._ring = _ring(path, core)
        self._written = 0

    def add(self, request_ids: Iterable[str]) -> None:
        """Notes that the next step works on these, which it did not before. Costs about a microsecond each."""
        for request_id in request_ids:
            self._ring[1 + self._written % _ENTRIES] = key_of(request_id)
            self._written += 1
        self._ring[0] = self._written


def _ring(path: Path, core: int) -> memoryview:
    with path.open("r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    return words[core * _WORDS : (core + 1) * _WORDS]
