"""Traces of requests whose prompts begin alike: when each came, its lengths, and its prompt's blocks."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.cached_fleet import BLOCK, Call

Rows = Sequence[tuple[float, int, int, Sequence[int]]]


def read_rows(file: Path) -> Rows:
    """Mooncake's lines of JSON: `timestamp` (ms, in steps of 3 s), `input_length`, `output_length`, `hash_ids`."""
    with file.open(encoding="utf-8") as lines:
        said = [json.loads(line) for line in lines]
    in_step, seen = Counter(row["timestamp"] for row in said), Counter[int]()
    rows = []
    for row in said:
        step = row["timestamp"]
        at_s = (step + 3000 * seen[step] / in_step[step]) / 1000
        seen[step] += 1
        rows.append((at_s, row["input_length"], max(1, row["output_length"]), row["hash_ids"]))
    return sorted(rows)


def synthetic_rows(conversations: int = 1500, seed: int = 0) -> Rows:
    """Conversations of some turns, each of which begins with all that was said before, and with one common block."""
    chance = random.Random(seed)
    rows = []
    fresh = iter(range(1, 10**9))
    for _ in range(conversations):
        at_s = chance.uniform(0, 1800)
        blocks = [0]
        for _ in range(1 + int(chance.expovariate(1 / 4))):
            blocks = blocks + [next(fresh) for _ in range(1 + int(chance.expovariate(1 / 5)))]
            tokens = BLOCK * (len(blocks) - 1) + chance.randint(1, BLOCK)
            rows.append((at_s, tokens, 1 + int(chance.expovariate(1 / 300)), blocks))
            at_s += 5 + chance.expovariate(1 / 60)
    return sorted(rows)


def calls_of(rows: Rows, faster: float) -> list[Call]:
    """The requests of a trace, anew, that come so many times faster."""
    began_s = rows[0][0]
    return [
        Call((at_s - began_s) / faster, prompt, output, blocks, blocks[1] if len(blocks) > 1 else -position)
        for position, (at_s, prompt, output, blocks) in enumerate(rows)
    ]


def infinite_share(rows: Rows) -> float:
    """The share of the prompts' tokens that one cache of no bound would have."""
    known = set[int]()
    cached = total = 0
    for _, prompt, _, blocks in rows:
        depth = next((at for at, block in enumerate(blocks) if block not in known), len(blocks))
        cached += min(depth * BLOCK, prompt - 1)
        total += prompt
        known.update(blocks)
    return cached / total
