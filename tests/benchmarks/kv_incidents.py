"""What routing by caches does when something happens: bursts of siblings, one system prompt for all, routers and
engines that are lost, cleared or added. On the virtual clock of `tests.benchmarks.kv_routing`, at 70 % of capacity.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console

from tests.benchmarks.cached_fleet import BLOCK, CachedFleet, Call, Outcome, Rule
from tests.benchmarks.kv_routing import CACHED_SHARE, ENGINES, capacity, rules
from tests.benchmarks.prefix_traces import Rows, calls_of, read_rows, synthetic_rows
from tests.benchmarks.report import table

LOAD = 0.7
SIBLINGS = 64
_BURST_S = 15.0
_SHARED_BLOCKS = 16
"""Of a system prompt of 8,192 tokens."""
_WINDOW_S = 10.0
_MOMENTS = tuple(part / 20 for part in range(4, 17))
"""When a router is restarted, as parts of the trace: one window of 10 s has some 80 requests, too few for a median."""
_RULES = ("kv_aware", "least_loaded", "fewest requests", "cache-aware", "weighted")

Happens = Callable[[CachedFleet, float], None]


def main() -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kv_incidents", description=__doc__)
    parser.add_argument("trace", nargs="?", type=Path, help="a file as Mooncake's; without it, a synthetic one")
    parser.add_argument("--only", nargs="+", metavar="RULE", default=_RULES, help="rules, by the beginning of names")
    arguments = parser.parse_args()
    rows = read_rows(arguments.trace) if arguments.trace else synthetic_rows()
    console = Console(file=sys.stdout, width=240)
    chosen = [rule for rule in rules() if any(rule.name.startswith(name) for name in arguments.only)]
    made = table("what happens", "rule", "TTFT p50", "TTFT p99", "cached", "spread", "besides")
    for rule in chosen:
        made.add_row("64 siblings", rule.name, *siblings(rule))
    shared = with_system_prompt(rows)
    for rule in chosen:
        made.add_row("a system prompt for 90 %", rule.name, *_figures(_serve(rule, shared), ""))
    for rule in chosen[:1]:
        for name, incident in (
            ("nothing", lambda fleet: None),
            ("a router is restarted", lambda fleet: fleet.restart_router(1)),
            ("a cache is cleared", lambda fleet: fleet.engines[3].clear()),
            ("an engine is lost", lambda fleet: fleet.kill_engine(3)),
            ("an engine is added", lambda fleet: fleet.add_engine()),
        ):
            made.add_row(name, rule.name, *incident_figures(rule, rows, incident, is_new=name.endswith("added")))
    console.print(made)
    for rule in chosen[:1]:
        ratios = restart_ratios(rule, rows)
        said = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        console.print(f"{rule.name}, a router restarted at {len(_MOMENTS)} moments, all together:")
        console.print(f"TTFT p50 in each 10 s after it, over that without it: {said}")
    return 0


def siblings(rule: Rule) -> Sequence[str]:
    """Requests at once, that share all but the last of sixteen blocks, on engines that are busy with others.

    Besides: on how many engines they are, what these computed for them, and how long others wait for their first token
    who come in the next two seconds.
    """
    calls = [
        Call(0.1 * number, 4 * BLOCK, 400, [10_000 * (number + 1) + at for at in range(4)], -number)
        for number in range(200)
    ]
    burst = [
        Call(_BURST_S, 16 * BLOCK, 100, [*range(1, 16), 9_000_000 + number], 9_000_000 + number)
        for number in range(SIBLINGS)
    ]
    outcome = CachedFleet(rule, 5000, ENGINES).run(sorted([*calls, *burst], key=lambda call: call.at_s))
    waits = sorted(call.first_s - call.at_s for call in burst)
    others = [call.first_s - call.at_s for call in calls if _BURST_S <= call.at_s < _BURST_S + 2.0]
    said = (
        f"on {len({call.instance for call in burst})} engines, "
        f"{sum(call.prompt_tokens - call.cached_tokens for call in burst):,} tokens computed; others wait "
        f"{sum(others) / len(others):.3f} on average, {max(others):.3f} at most"
    )
    return (*_at(waits), f"{outcome.cached_share:.1%}", f"{outcome.spread:.2f}", said)


def with_system_prompt(rows: Rows) -> Rows:
    """Nine requests of ten begin with the same blocks, which the trace does not have."""
    return [
        (at_s, prompt, output, blocks)
        if position % 10 == 9
        else (at_s, prompt + _SHARED_BLOCKS * BLOCK, output, [*range(_SHARED_BLOCKS), *blocks])
        for position, (at_s, prompt, output, blocks) in enumerate(_moved(rows))
    ]


def _moved(rows: Rows) -> Rows:
    # The first of them are the system prompt's.
    return [(at_s, prompt, output, [block + 1000 for block in blocks]) for at_s, prompt, output, blocks in rows]


def incident_figures(
    rule: Rule, rows: Rows, incident: Callable[[CachedFleet], None], *, is_new: bool = False
) -> Sequence[str]:
    """It happens in the middle, with two routers. Besides: TTFT p50 before and after, and what a new one carries."""
    calls = calls_of(rows, capacity(rows) * LOAD)
    at_s = calls[len(calls) // 2].at_s
    done = False

    def happens(fleet: CachedFleet, now_s: float) -> None:
        nonlocal done
        if not done and now_s >= at_s:
            done = True
            incident(fleet)

    outcome = CachedFleet(rule, _cache_blocks(rows), ENGINES, 2, happens=happens).run(calls)
    before = _median(calls, at_s - 60.0, at_s)
    after = [_median(calls, at_s + _WINDOW_S * number, at_s + _WINDOW_S * (number + 1)) for number in range(4)]
    said = f"p50 {before:.3f} before, then " + ", ".join(f"{value:.3f}" for value in after)
    later = [call for call in calls if at_s + 30.0 <= call.at_s < at_s + 90.0]
    if is_new and later:
        share = sum(call.instance == ENGINES for call in later) / len(later) * (ENGINES + 1)
        said += f"; after 30 s the new one has {share:.2f} of its share"
    return _figures(outcome, said)


def restart_ratios(rule: Rule, rows: Rows) -> Sequence[float]:
    """TTFT p50 in each of four windows after a router's restart, at all moments together, over that without it."""
    calm = calls_of(rows, capacity(rows) * LOAD)
    CachedFleet(rule, _cache_blocks(rows), ENGINES, 2).run(calm)
    with_it: list[list[float]] = [[] for _ in range(4)]
    without: list[list[float]] = [[] for _ in range(4)]
    for moment in _MOMENTS:
        calls = calls_of(rows, capacity(rows) * LOAD)
        at_s = calls[int(len(calls) * moment)].at_s
        done = False

        def happens(fleet: CachedFleet, now_s: float, at_s: float = at_s) -> None:
            nonlocal done
            if not done and now_s >= at_s:
                done = True
                fleet.restart_router(1)

        CachedFleet(rule, _cache_blocks(rows), ENGINES, 2, happens=happens).run(calls)
        for number in range(4):
            window = at_s + _WINDOW_S * number, at_s + _WINDOW_S * (number + 1)
            with_it[number] += _waits(calls, *window)
            without[number] += _waits(calm, *window)
    return [median(some) / median(others) for some, others in zip(with_it, without, strict=True)]


def _serve(rule: Rule, rows: Rows) -> Outcome:
    return CachedFleet(rule, _cache_blocks(rows), ENGINES).run(calls_of(rows, capacity(rows) * LOAD))


def _cache_blocks(rows: Rows) -> int:
    return max(1, int(len({block for _, _, _, some in rows for block in some}) * CACHED_SHARE / ENGINES))


def _median(calls: Sequence[Call], from_s: float, until_s: float) -> float:
    waits = sorted(_waits(calls, from_s, until_s))
    return waits[len(waits) // 2] if waits else math.nan


def _waits(calls: Sequence[Call], from_s: float, until_s: float) -> list[float]:
    return [call.first_s - call.at_s for call in calls if from_s <= call.at_s < until_s]


def _at(waits: Sequence[float]) -> tuple[str, str]:
    return f"{waits[len(waits) // 2]:.3f}", f"{waits[int(0.99 * len(waits))]:.2f}"


def _figures(outcome: Outcome, besides: str) -> Sequence[str]:
    return (*_at(outcome.ttft_s), f"{outcome.cached_share:.1%}", f"{outcome.spread:.2f}", besides)


if __name__ == "__main__":
    sys.exit(main())
