"""Ways to pick an instance that Penstock does not have, as their documentation describes them; for comparison."""

import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from deployments.routing.placements import Placements
from deployments.routing.prefix_index import PrefixIndex
from engines.rendezvous import draw
from tests.benchmarks.cached_fleet import MODEL, TraceHasher


class RulePlacements(Placements):
    """Lets a router pick by such a rule."""

    def __init__(self, rule: Any) -> None:
        super().__init__(MODEL, "random", hasher=TraceHasher())
        self._rule = rule

    def policy(self) -> Any:
        """The rule."""
        return self._rule


class FewestRequests:
    """Least loaded, by requests."""

    def __init__(self) -> None:
        self._rng = random.Random(0)

    def choose(self, candidates: Sequence[Any], request: Any) -> Any:
        least = min(candidate.load for candidate in candidates)
        return self._rng.choice([candidate for candidate in candidates if candidate.load == least])


class PrefixHash:
    """Consistent hash by prefix, with bounded load: where the first blocks of a prompt are placed by their hash."""

    def __init__(self, blocks: int = 4, load_factor: float = 1.25) -> None:
        self._blocks = blocks
        self._load_factor = load_factor

    def choose(self, candidates: Sequence[Any], request: Any) -> Any:
        key = str(list(request.call.blocks[: self._blocks]))
        bound = self._load_factor * (sum(candidate.load for candidate in candidates) + 1) / len(candidates)
        free = [candidate for candidate in candidates if candidate.load < max(4, bound)]
        return max(free, key=lambda candidate: draw(key, candidate.id))


class CacheAware:
    """Cache first, above a match; the load only where it is out of balance.

    Of SGLang's router, by its documentation: where the loads are out of balance (the most over the least by 32
    requests, and by a factor of 1.1) the fewest requests win; else the longest match in a tree of what was sent where,
    if it is at least half of the prompt; else the instance with the smallest tree. No eviction is ever heard of.
    """

    def __init__(self, threshold: float = 0.5, most: int = 32, factor: float = 1.1) -> None:
        self._threshold = threshold
        self._most = most
        self._factor = factor
        self._index = PrefixIndex(10_000_000)
        self._sizes: dict[int, int] = {}

    def choose(self, candidates: Sequence[Any], request: Any) -> Any:
        loads = [candidate.load for candidate in candidates]
        blocks = request.call.blocks
        depths = self._index.depths(blocks, sum(1 << int(candidate.id) for candidate in candidates))
        depth, best = depths[-1]
        if max(loads) - min(loads) > self._most and max(loads) > self._factor * min(loads):
            chosen = min(candidates, key=lambda candidate: candidate.load)
        elif depth > self._threshold * len(blocks):
            chosen = next(candidate for candidate in candidates if best >> int(candidate.id) & 1)
        else:
            chosen = min(candidates, key=lambda candidate: self._sizes.get(int(candidate.id), 0))
        slot = int(chosen.id)
        known = next((depth for depth, some in depths if some >> slot & 1), 0)
        self._sizes[slot] = self._sizes.get(slot, 0) + len(blocks) - known
        self._index.add(blocks, slot)
        return chosen


class Weighted:
    """Scores, weighted and added: prefix 3, queue 2, KV use 2.

    Of the Kubernetes inference gateway's scheduler, by its documentation: the share of the prompt that was sent to an
    instance before (the last 31,250 blocks of each), the queue between the shortest and the longest, the KV cache's
    use.
    """

    def __init__(self, prefix: float = 3.0, queue: float = 2.0, kv_use: float = 2.0, blocks: int = 31_250) -> None:
        self._weights = prefix, queue, kv_use
        self._blocks = blocks
        self._sent: dict[str, OrderedDict[int, None]] = {}

    def choose(self, candidates: Sequence[Any], request: Any) -> Any:
        blocks = request.call.blocks
        queues = [candidate.reported.queued for candidate in candidates]
        least, most = min(queues), max(queues)
        prefix_weight, queue_weight, kv_weight = self._weights

        def score(place: int) -> float:
            candidate = candidates[place]
            known = self._sent.get(candidate.id, {})
            depth = next((at for at, block in enumerate(blocks) if block not in known), len(blocks))
            free = 1.0 if most == least else (most - queues[place]) / (most - least)
            kv_use = candidate.egress.kv_use
            return prefix_weight * depth / len(blocks) + queue_weight * free + kv_weight * (1 - kv_use)

        chosen = candidates[max(range(len(candidates)), key=score)]
        known = self._sent.setdefault(chosen.id, OrderedDict())
        for block in blocks:
            known[block] = None
            known.move_to_end(block)
        while len(known) > self._blocks:
            known.popitem(last=False)
        return chosen
