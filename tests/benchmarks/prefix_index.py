"""The index of prefixes: memory, time of a decision, changes in a second of CPU."""

import sys
import time
import tracemalloc
from collections.abc import Iterator
from itertools import count

from rich.console import Console

from deployments.routing.prefix_index import PrefixIndex

BLOCKS = 1_000_000
INSTANCES = 64
PROMPT_TOKENS = 100_000
CHUNK_TOKENS = 256
_CHAIN = 64


def main() -> int:
    """Runs it."""
    console = Console(file=sys.stdout, width=160)
    numbers = count(1)
    # As the hashes are: of 60 bits, which are no small numbers that are kept anyway.
    chains = [
        [(next(numbers) * 0x9E3779B97F4A7C15) >> 4 & 2**60 - 1 for _ in range(_CHAIN)] for _ in range(BLOCKS // _CHAIN)
    ]
    tracemalloc.start()
    index = PrefixIndex()
    for at, chain in enumerate(chains):
        index.add(chain, at % INSTANCES)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Their keys belong to the chains, which a router does not keep: 32 bytes each.
    console.print(f"{len(index):,} prefixes: {(held + 32 * len(index)) / 2**20:.0f} MiB")
    began_s = time.process_time()
    for at, chain in enumerate(chains):
        index.add(chain, (at + 1) % INSTANCES)
    added_s = time.process_time() - began_s
    began_s = time.process_time()
    for at, chain in enumerate(chains):
        index.remove(chain, (at + 1) % INSTANCES)
    removed_s = time.process_time() - began_s
    console.print(f"{BLOCKS / added_s / 1e6:.1f} M inserts and {BLOCKS / removed_s / 1e6:.1f} M removals in a second")
    long = _chain(numbers, -(-PROMPT_TOKENS // CHUNK_TOKENS))
    for slot in range(INSTANCES):
        index.add(long[: (slot + 1) * len(long) // INSTANCES], slot)
    everyone = (1 << INSTANCES) - 1
    rounds = 2000
    for name, slots in (("each holds another part of it", everyone), ("one holds it", 1 << INSTANCES - 1)):
        began_s = time.process_time()
        for _ in range(rounds):
            index.depths(long, slots)
        took_us = (time.process_time() - began_s) / rounds * 1e6
        console.print(f"a prompt of {PROMPT_TOKENS:,} tokens over {INSTANCES} instances, {name}: {took_us:.0f} us")
    return 0


def _chain(numbers: Iterator[int], length: int) -> list[int]:
    return [(next(numbers) * 0x9E3779B97F4A7C15) >> 4 & 2**60 - 1 for _ in range(length)]


if __name__ == "__main__":
    sys.exit(main())
