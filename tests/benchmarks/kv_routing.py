"""Ways to pick an instance, beside one another over a trace of prompts that begin alike, on a virtual clock.

Eight engines with the step times of `engines.simulated` (a model of 8 B on one H100), whose prefix caches hold a
quarter of the trace's blocks together. The trace comes so much faster that the engines have a share of what they could
do if they were never idle and nothing were cached. Penstock's policies are the real ones, in real routers; the others
are written by their documentation (`tests.benchmarks.peer_rules`). Times are in seconds.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from deployments.model_settings import PolicyName, RoutingSettings, StickySettings
from engines.simulated.options import StepTime
from tests.benchmarks.cached_fleet import BLOCK, CachedFleet, Outcome, Rule
from tests.benchmarks.peer_rules import CacheAware, FewestRequests, PrefixHash, RulePlacements, Weighted
from tests.benchmarks.prefix_traces import Rows, calls_of, infinite_share, read_rows, synthetic_rows
from tests.benchmarks.report import table

ENGINES = 8
CACHED_SHARE = 1 / 4
_UNBOUNDED = 10**7
_IDLE = 0.002
"""Of the capacity: hardly ever are two requests there at once."""
_OURS = ("kv_aware", "kv_aware, approximate", "least_loaded")


def main() -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kv_routing", description=__doc__)
    parser.add_argument("trace", nargs="?", type=Path, help="a file as Mooncake's; without it, a synthetic one")
    parser.add_argument("--loads", nargs="+", type=float, default=[0.5, 0.7, 0.9], help="shares of capacity")
    parser.add_argument("--only", nargs="+", metavar="RULE", help="rules, by the beginning of their names")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draws the first tokens; needs matplotlib")
    arguments = parser.parse_args()
    console = Console(file=sys.stdout, width=160)
    rows = read_rows(arguments.trace) if arguments.trace else synthetic_rows()
    name = arguments.trace.name if arguments.trace else "synthetic"
    blocks = len({block for _, _, _, some in rows for block in some})
    cache_blocks = max(1, int(blocks * CACHED_SHARE / ENGINES))
    console.print(
        f"\n{name}: {len(rows)} requests, {blocks} blocks of {BLOCK} tokens, {cache_blocks} of them in each of "
        f"{ENGINES} caches; one cache without a bound would have {infinite_share(rows):.1%} of the prompts' tokens\n",
        markup=False,
    )
    outcomes = _compare(console, rows, cache_blocks, arguments.loads, arguments.only)
    floor = CachedFleet(rules()[0], _UNBOUNDED, 1).run(calls_of(rows, capacity(rows) * _IDLE))
    console.print(
        f"An idle engine that forgets nothing: TTFT p50 {floor.ttft_at(0.5):.3f}, p99 {floor.ttft_at(0.99):.2f}"
    )
    if arguments.plot:
        _plot(arguments.plot, arguments.loads, outcomes, floor)
    return 0


def rules() -> list[Rule]:
    """All of them."""

    def ours(name: str, policy: PolicyName, *, sticky: bool = False, exact: bool = False) -> Rule:
        settings = RoutingSettings(policy=policy, sticky=StickySettings(mode="soft" if sticky else "off"))
        return Rule(name, settings, sticky=sticky, exact=exact)

    def theirs(name: str, make: Callable[[], object]) -> Rule:
        settings = RoutingSettings(policy="random", sticky=StickySettings(mode="off"))
        return Rule(name, settings, lambda: RulePlacements(make()))

    return [
        ours("kv_aware", "kv_aware", exact=True),
        ours("kv_aware, approximate", "kv_aware"),
        ours("least_loaded", "least_loaded"),
        theirs("fewest requests", FewestRequests),
        ours("power_of_two", "power_of_two"),
        ours("round_robin", "round_robin"),
        ours("random", "random"),
        ours("sticky, soft", "least_loaded", sticky=True),
        theirs("hash of the prefix", PrefixHash),
        theirs("cache-aware, 0.5, 32, 1.1", CacheAware),
        theirs("weighted 3, 2, 2", Weighted),
    ]


def capacity(rows: Rows) -> float:
    """How many times faster the trace could come, if the engines were never idle and nothing were cached."""
    step = StepTime()
    work_s = sum(
        prompt * (step.prefill_token_s + step.base_s / 2048)
        + output * (step.decode_sequence_s + step.context_token_s * (prompt + output / 2))
        for _, prompt, output, _ in rows
    )
    return ENGINES * (rows[-1][0] - rows[0][0]) / work_s


def _compare(
    console: Console, rows: Rows, cache_blocks: int, loads: Sequence[float], only: Sequence[str] | None
) -> dict[str, list[Outcome]]:
    """Prints a table for each load; returns what became of each rule with one router, by its name."""
    fastest, best = capacity(rows), infinite_share(rows)
    outcomes: dict[str, list[Outcome]] = {}
    for load in loads:
        made = table("rule", "routers", "TTFT p50", "TTFT p99", "end to end p50", "cached", "of the best", "spread")
        began_s = time.monotonic()
        for rule in rules():
            if only and not any(rule.name.startswith(name) for name in only):
                continue
            for routers in (1, 4) if rule.name in _OURS else (1,):
                outcome = CachedFleet(rule, cache_blocks, ENGINES, routers).run(calls_of(rows, fastest * load))
                if routers == 1:
                    outcomes.setdefault(rule.name, []).append(outcome)
                made.add_row(rule.name, str(routers), *_figures(outcome, best))
        console.print(f"{load:.0%} of capacity, simulated in {time.monotonic() - began_s:.0f} s", markup=False)
        console.print(made)
    return outcomes


def _plot(file: Path, loads: Sequence[float], outcomes: Mapping[str, Sequence[Outcome]], floor: Outcome) -> None:
    from matplotlib import pyplot  # type: ignore[import-not-found]  # not needed for anything else

    figure, (middle, late, whole) = pyplot.subplots(1, 3, figsize=(13, 4.5), layout="constrained")
    shares = [100 * load for load in loads]
    for name, ran in outcomes.items():
        style = {"linewidth": 3, "color": "black"} if name == "kv_aware" else {"linewidth": 1.2}
        middle.plot(shares, [outcome.ttft_at(0.5) for outcome in ran], marker="o", markersize=3, label=name, **style)
        late.plot(shares, [outcome.ttft_at(0.99) for outcome in ran], marker="o", markersize=3, **style)
        whole.plot(shares, [outcome.total_at(0.5) for outcome in ran], marker="o", markersize=3, **style)
    middle.axhline(floor.ttft_at(0.5), linestyle=":", color="gray", label="an idle engine that forgets nothing")
    late.axhline(floor.ttft_at(0.99), linestyle=":", color="gray")
    for axes, title in ((middle, "TTFT p50"), (late, "TTFT p99"), (whole, "end to end p50")):
        axes.set(title=f"{title}, s", xlabel="% of capacity", yscale="log", xticks=shares)
        axes.grid(visible=True, which="both", alpha=0.2)
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter("{x:g}")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(file, metadata={"Date": None})


def _figures(outcome: Outcome, best: float) -> Sequence[str]:
    return (
        f"{outcome.ttft_at(0.5):.3f}",
        f"{outcome.ttft_at(0.99):.2f}",
        f"{outcome.total_at(0.5):.2f}",
        f"{outcome.cached_share:.1%}",
        f"{outcome.cached_share / best:.0%}",
        f"{outcome.spread:.2f}",
    )


if __name__ == "__main__":
    sys.exit(main())
