"""Traces of requests: when each came, and how long its prompt and its answer were."""

import csv
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from tests.benchmarks.simulated_fleet import TraceRequest

Trace = Callable[[], list[TraceRequest]]
"""Makes the requests of a trace anew, sorted by time: a run notes in them what became of each."""


def read_trace(file: Path) -> Trace:
    """A trace of a file: Azure's CSV (`TIMESTAMP,ContextTokens,GeneratedTokens`), or Mooncake's lines of JSON."""
    rows = _azure(file) if file.suffix == ".csv" else _mooncake(file)
    return _trace(rows)


def synthetic_trace(seconds: float = 3600.0, seed: int = 0) -> Trace:
    """Requests at random, five a second, with lengths as skewed as those of chats."""
    chance = random.Random(seed)
    rows, at_s = list[tuple[float, int, int]](), 0.0
    while at_s < seconds:
        rows.append((at_s, 1 + int(chance.lognormvariate(6.6, 0.9)), 1 + int(chance.lognormvariate(5.0, 0.8))))
        at_s += chance.expovariate(5.0)
    return _trace(rows)


def like_a_day(trace: Trace, silent_s: float = 600.0, seed: int = 0) -> Trace:
    """The trace thinned out to the shape of a day: all of it at noon, nothing at the end for some time."""
    whole = trace()
    length_s = whole[-1].at_s - silent_s
    chance = random.Random(seed)
    rows = [
        (request.at_s, request.prompt_tokens, request.output_tokens)
        for request in whole
        if request.at_s < length_s and chance.random() < math.sin(math.pi * request.at_s / length_s) ** 2
    ]
    return _trace(rows)


def _trace(rows: Sequence[tuple[float, int, int]]) -> Trace:
    return lambda: [TraceRequest(at_s, prompt_tokens, output_tokens) for at_s, prompt_tokens, output_tokens in rows]


def _azure(file: Path) -> list[tuple[float, int, int]]:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [
            # The last of its seven digits of a second is one too many for Python.
            (datetime.fromisoformat(row["TIMESTAMP"][:26]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
            for row in csv.DictReader(lines)
        ]
    began = min(at for at, _, _ in rows)
    return sorted(((at - began).total_seconds(), prompt, output) for at, prompt, output in rows)


def _mooncake(file: Path) -> list[tuple[float, int, int]]:
    """Its times come in steps of three seconds; the requests of a step are spread evenly over it."""
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    in_step, seen = Counter(row["timestamp"] for row in rows), Counter[int]()
    spread = []
    for row in rows:
        step = row["timestamp"]
        at_s = (step + 3000 * seen[step] / in_step[step]) / 1000
        spread.append((at_s, row["input_length"], row["output_length"]))
        seen[step] += 1
    return sorted(spread)
