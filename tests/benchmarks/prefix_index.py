"""What routing by caches costs a router: the index of prefixes, and the CPU time of a request by policy."""

import sys
import time
import tracemalloc
from collections.abc import Iterator
from itertools import count

from rich.console import Console

from deployments.model_settings import PolicyName
from deployments.routing.cached_prefixes import CachedPrefixes
from deployments.routing.placements import Placements
from deployments.routing.policies import KvAware
from deployments.routing.prefix_index import PrefixIndex
from deployments.routing.prompt_chain import PromptChain
from engines.errors import PenstockError
from engines.events import Event, Finished, Started, TextDelta, Usage
from engines.messages import Message
from engines.requests import GenerateRequest
from tests.deployments.routing.candidates import Server

BLOCKS = 1_000_000
INSTANCES = 64
PROMPT_TOKENS = 100_000
CHUNK_TOKENS = 256
_CHAIN = 64
FEW = 8
MESSAGE_TOKENS = 250


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
    console.print(
        f"which of these {INSTANCES} is picked, by kv_aware, each holds another part of it: {decision_us():.0f} us"
    )
    for tokens in (1_000, 10_000, 100_000):
        spent = [request_us(policy, tokens) for policy in ("kv_aware", "least_loaded", "random")]
        console.print(
            f"a request of {tokens:,} tokens in messages of {MESSAGE_TOKENS}, over {FEW} instances: kv_aware "
            f"{spent[0]:.0f} us, least_loaded {spent[1]:.0f} us, random {spent[2]:.0f} us"
        )
    return 0


def decision_us(rounds: int = 1000) -> float:
    """CPU microseconds in which one of many instances is picked for a long prompt, whose hashes are there already."""
    prefixes = _chain(count(1), -(-PROMPT_TOKENS // CHUNK_TOKENS))
    chain = PromptChain(prefixes, [CHUNK_TOKENS * (at + 1) for at in range(len(prefixes))], PROMPT_TOKENS)
    held = dict(zip(chain.prefixes, chain.ends, strict=True))
    cached = CachedPrefixes()
    servers = [Server(f"m-{at}", cache_tokens=10**7, reports_cache=True) for at in range(INSTANCES)]
    for at, server in enumerate(servers):
        part = chain.prefixes[: (at + 1) * len(prefixes) // INSTANCES]
        cached.hear_cached(server.id, 0, 0, {prefix: held[prefix] for prefix in part})
    policy = KvAware(cached, lambda _: chain)
    request = GenerateRequest(model="m", prompt="x")
    began_s = time.process_time()
    for _ in range(rounds):
        policy.choose(servers, request)
    return (time.process_time() - began_s) / rounds * 1e6


def request_us(policy: PolicyName, tokens: int, rounds: int = 200) -> float:
    """CPU microseconds in which an instance is picked, the prompt reckoned, and what its stream says of it heard."""
    placements = Placements("m", policy)
    picks = placements.policy()
    servers = [Server(f"m-{at}", cache_tokens=10**7, reports_cache=True, cache_block_tokens=16) for at in range(FEW)]
    text = "x" * (4 * MESSAGE_TOKENS)
    history = [Message(role="user", content=text) for _ in range(tokens // MESSAGE_TOKENS)]
    usage = Usage(prompt_tokens=tokens, completion_tokens=1, cached_tokens=0)
    spent_s = 0.0
    for number in range(rounds):
        request = GenerateRequest(model="m", messages=[*history[:-1], Message(role="user", content=f"{number} {text}")])
        began_s = time.process_time()
        chosen = picks.choose(servers, request)
        assert chosen is not None
        placement = placements.place(request, chosen)
        if placement is not None:
            sink = placement.heard(_Nobody())
            sink.emit(Started("e", "m", prompt_tokens=tokens))
            sink.emit(TextDelta(text="x", token_ids=[1]))
            sink.emit(Finished(("stop",), usage, "e"))
        spent_s += time.process_time() - began_s
    return spent_s / rounds * 1e6


class _Nobody:
    def emit(self, event: Event) -> None:
        pass

    def fail(self, error: PenstockError) -> None:
        raise error


def _chain(numbers: Iterator[int], length: int) -> list[int]:
    return [(next(numbers) * 0x9E3779B97F4A7C15) >> 4 & 2**60 - 1 for _ in range(length)]


if __name__ == "__main__":
    sys.exit(main())
