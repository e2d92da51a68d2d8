"""An autoscaled fleet beside fixed ones of its mean and of its peak, over a trace, on a virtual clock.

The engines are simulated, and slowed down so far that the trace keeps `--busy` of them busy on the average: a fleet of
one says nothing. The autoscaled fleet begins with so many, or for a day's load with none. It knows nothing of what an
instance can do, and each boot takes a minute. The one beside it keeps a spare. Times to first token are in seconds.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from deployments.scaling.scaler import Goal, Scaler
from engines.simulated.options import StepTime
from tests.benchmarks.report import table
from tests.benchmarks.simulated_fleet import Machine, Outcome, SimulatedFleet
from tests.benchmarks.traces import Trace, like_a_day, read_trace, synthetic_trace

MOST = 64
_BATCH = 32
"""Sequences that share the constant part of a step, when the work of a trace is estimated."""


def main() -> int:
    """Runs it; 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.autoscaling", description=__doc__)
    parser.add_argument("traces", nargs="*", type=Path, metavar="TRACE", help="files; without any, a synthetic one")
    parser.add_argument("--busy", type=float, default=5.0, help="engines that the whole trace keeps busy; default 5")
    parser.add_argument("--boot-s", type=float, default=60.0, help="what a boot takes; default 60")
    parser.add_argument("--queue-time-s", type=float, default=2.0, help="the goal; default 2")
    parser.add_argument("--idle-s", type=float, default=300.0, help="idle time; default 300")
    arguments = parser.parse_args()
    console = Console(file=sys.stdout, width=200)
    traces = {file.name: read_trace(file) for file in arguments.traces} or {"synthetic": synthetic_trace()}
    lost = 0
    for name, trace in traces.items():
        machine = _machine(trace, arguments.busy)
        console.print(
            f"\n{name}: {len(trace())} requests in {trace()[-1].at_s / 60:.0f} minutes; engines "
            f"{machine.step_time.base_s / StepTime().base_s:.1f} times slower than one H100 with a model of 8 B\n",
            markup=False,
        )
        made = table("load", "fleet", "instance-hours", "TTFT p50", "TTFT p99", "up / down", "flaps", "held", "lost")
        goal = Goal(0, MOST, wait_s=arguments.queue_time_s, idle_s=arguments.idle_s)
        for load, shaped, tail_s in (("as it is", trace, 0.0), ("like a day", like_a_day(trace), 600.0)):
            first = math.ceil(arguments.busy) if shaped is trace else 0
            began_s = time.monotonic()
            outcomes = _outcomes(shaped, machine, goal, arguments.boot_s, first, tail_s)
            for fleet, outcome in outcomes.items():
                lost += outcome.lost
                made.add_row(load, fleet, *_row(outcome, changes=fleet.startswith("autoscaled")))
            console.print(f"{load}: simulated in {time.monotonic() - began_s:.0f} s", markup=False)
        console.print(made)
    return 1 if lost else 0


def _outcomes(
    trace: Trace, machine: Machine, goal: Goal, boot_s: float, first: int, tail_s: float
) -> dict[str, Outcome]:
    auto = SimulatedFleet(machine, boot_s, first, Scaler(goal)).run(trace(), tail_s=tail_s)
    hours = len(auto.targets) / 3600
    spare = Scaler(replace(goal, spare=1))
    outcomes = {
        "autoscaled": auto,
        "autoscaled, 1 spare": SimulatedFleet(machine, boot_s, max(1, first), spare).run(trace(), tail_s=tail_s),
    }
    for name, instances in (("the mean", round(auto.instance_hours / hours)), ("the peak", auto.peak)):
        fixed = max(1, instances)
        outcomes[f"{name}: {fixed}"] = SimulatedFleet(machine, boot_s, fixed).run(trace(), tail_s=tail_s)
    return outcomes


def _row(outcome: Outcome, *, changes: bool) -> Sequence[str]:
    return (
        f"{outcome.instance_hours:.2f}",
        f"{outcome.ttft_at(0.5):.2f}",
        f"{outcome.ttft_at(0.99):.2f}",
        f"{outcome.ups} / {outcome.downs}" if changes else "",
        str(outcome.flaps) if changes else "",
        str(outcome.cold_starts) if changes else "",
        str(outcome.lost),
    )


def _machine(trace: Trace, busy: float) -> Machine:
    """An engine so slow that the trace keeps that many of them busy, about."""
    requests, machine = trace(), Machine(StepTime())
    time = machine.step_time
    prompt_token_s = time.base_s / machine.max_batched_tokens + time.prefill_token_s
    work_s = sum(
        request.prompt_tokens * prompt_token_s
        + request.output_tokens
        * (time.base_s / _BATCH + time.decode_sequence_s + time.context_token_s * request.prompt_tokens)
        for request in requests
    )
    slower = busy * requests[-1].at_s / work_s
    slow = StepTime(**{name: value * slower for name, value in time.model_dump().items()})
    return Machine(slow)


if __name__ == "__main__":
    sys.exit(main())
