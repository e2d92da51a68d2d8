"""Text in chunks, each known by a hash of itself and of all that comes before it.

Prompts that begin alike have chunks that begin alike. A router makes them of a prompt's text; the engine that reads the
prompt goes on with the text of its answer, which the next prompt of a conversation begins with. A long message is cut
every `CHUNK_BYTES`; short ones are taken together, so that a chunk is never much smaller than a block of a KV cache.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

CHUNK_BYTES = 1024
LEAST_BYTES = 64
"""A message that leaves less than so much shares its chunk with the next one."""
MAX_BYTES = 1024 * 1024
"""What is behind it is counted and not hashed: it belongs to no chunk."""
HASH_BYTES = 16
_PREFIX_SHIFT = 4
"""Prefixes have 60 bits: an int of these takes 32 bytes, one of 64 bits takes 48."""
_TYPE = "Q"


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where a chain of chunks goes on.

    Attributes:
        digest: Of all chunks so far.
        open: Text that is in none of them yet.
        size: Bytes of text in them.
    """

    digest: bytes
    open: bytes
    size: int


@dataclass(frozen=True, slots=True)
class SentChain:
    """The chunks of one prompt, as they go with it to an instance.

    Attributes:
        prefixes: The hash of each prefix, the shortest first; as `pack` packs them.
        ends: Where each ends, in bytes of text or in token ids, packed likewise.
        size: How long the whole prompt is, likewise.
        state: Where the answer goes on; None: what comes after the prompt is not known by its text.
    """

    prefixes: bytes
    ends: bytes
    size: int
    state: ChainState | None = None


class Chunks:
    """Cuts text into chunks, and hashes each with all that comes before it.

    Args:
        state: What comes before.
    """

    def __init__(self, state: ChainState) -> None:
        self._digest = state.digest
        self._open = state.open
        self._bytes = state.size
        self.prefixes: list[int] = []
        self.ends: list[int] = []

    @property
    def is_full(self) -> bool:
        """Whether no more should be added."""
        return self._bytes >= MAX_BYTES

    @property
    def state(self) -> ChainState:
        """Where it would go on."""
        return ChainState(self._digest, self._open, self._bytes)

    @property
    def size(self) -> int:
        """Bytes of text so far."""
        return self._bytes + len(self._open)

    def add(self, text: bytes) -> None:
        """Takes more of the text, up to the limit."""
        text = self._open + text
        start = 0
        last = min(len(text), MAX_BYTES - self._bytes)
        while last - start >= CHUNK_BYTES:
            self._close(text[start : start + CHUNK_BYTES])
            start += CHUNK_BYTES
        self._open = text[start:]

    def close_message(self) -> None:
        """A message ends here, and a chunk with it where there is enough for one."""
        if len(self._open) >= LEAST_BYTES:
            self.close()

    def close(self) -> None:
        """A chunk ends here, however small."""
        if self._open and not self.is_full:
            self._close(self._open)
            self._open = b""

    def _close(self, chunk: bytes) -> None:
        digest = self._digest = next_digest(chunk, self._digest)
        self.prefixes.append(prefix_of(digest))
        self._bytes += len(chunk)
        self.ends.append(self._bytes)


def next_digest(chunk: bytes, digest: bytes) -> bytes:
    """The digest of a chunk that comes after what has this one, which keys it."""
    return blake2b(chunk, digest_size=HASH_BYTES, key=digest).digest()


def prefix_of(digest: bytes) -> int:
    """The number by which a prefix of this digest is known."""
    return int.from_bytes(digest[:8]) >> _PREFIX_SHIFT


def plain_message(role: str, text: str) -> bytes:
    """A message of nothing but text, as it is hashed."""
    return b"\x00%b\x00%b" % (role.encode(), text.encode("utf-8", "surrogatepass"))


def pack(numbers: list[int]) -> bytes:
    """Numbers of up to 64 bits, as bytes."""
    return array(_TYPE, numbers).tobytes()


def unpack(data: bytes) -> list[int]:
    """The numbers."""
    numbers = array(_TYPE)
    numbers.frombytes(data)
    return numbers.tolist()


def pack_held(held: Mapping[int, int]) -> tuple[bytes, bytes]:
    """Prefixes, each with its number of tokens, as bytes of the ones and of the others, in their order."""
    return pack(list(held)), pack(list(held.values()))


def unpack_held(prefixes: bytes, tokens: bytes) -> dict[int, int]:
    """The prefixes, each with its number of tokens."""
    return dict(zip(unpack(prefixes), unpack(tokens), strict=True))
