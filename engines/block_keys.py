"""Keys of the full blocks of a KV cache: each says its block's tokens and all that come before them."""

from collections.abc import Sequence

ROOT = 0
"""The hash of the empty prefix."""


def root_hash(salt: str, adapter: str = "") -> int:
    """The hash of the empty prefix for requests that share nothing with those of another salt, or another adapter."""
    if adapter:
        return hash((ROOT, len(salt), *salt.encode(), *adapter.encode()))
    return hash((ROOT, *salt.encode())) if salt else ROOT


def block_hash(parent: int, token_ids: Sequence[int]) -> int:
    """The hash of a full block after a prefix with the hash `parent`; the same in every process."""
    return hash((parent, *token_ids))


def block_hashes(token_ids: Sequence[int], size: int, parent: int = ROOT) -> list[int]:
    """The hashes of the full blocks of `size` tokens after a prefix with the hash `parent`, in order."""
    hashes = []
    for start in range(0, len(token_ids) - size + 1, size):
        parent = block_hash(parent, token_ids[start : start + size])
        hashes.append(parent)
    return hashes
