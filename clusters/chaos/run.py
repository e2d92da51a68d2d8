"""Chaos: a load of counting requests, one fault after another, and a table of what the clients saw."""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from clusters.chaos.counting import CountingLoad, Tally
from clusters.chaos.faults import Fault, NotHere, Scene
from clusters.chaos.targets import Targets

WARM_UP_S = 2.0
SETTLE_S = 3.0
"""How long a load goes on after the fleet has its full capacity again."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """What to do.

    Attributes:
        url: Where the fleet answers.
        fleet: Its name.
        model: Which model counts.
        faults: What happens, one after another.
        clients: How many count at a time.
        length: Numbers of each answer.
        times: How often each fault happens.
        recovery_s: What the fleet gets to have its full capacity again after a fault.
        seed: Of the choice of victims.
    """

    url: str
    fleet: str
    model: str
    faults: Sequence[Fault]
    clients: int = 50
    length: int = 300
    times: int = 1
    recovery_s: float = 120.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one fault did.

    Attributes:
        fault: Which one.
        open: Answers that were being read when it happened.
        tally: What became of the requests from then on.
        recovered_s: Seconds to full capacity; None: not within the time it got.
        not_here: Why it could not happen; empty when it did.
    """

    fault: Fault
    open: int
    tally: Tally
    recovered_s: float | None
    not_here: str = ""

    @property
    def is_good(self) -> bool:
        """Whether no client saw anything of it, except where nothing can be done about it."""
        if self.not_here:
            return True
        cut = self.tally.cut and not self.fault.cuts
        return self.tally.is_whole and not cut and self.recovered_s is not None


async def run_chaos(plan: ChaosPlan, console: Console) -> list[Outcome]:
    """Runs the plan, and shows each outcome as it comes."""
    targets = Targets(plan.fleet)
    capacity = len(await targets.instances())
    scene = Scene(targets, plan.url, plan.model, random.Random(plan.seed))  # noqa: S311
    outcomes: list[Outcome] = []
    async with CountingLoad(plan.url, plan.model, plan.clients, plan.length) as load:
        await asyncio.sleep(WARM_UP_S)
        for fault in (fault for fault in plan.faults for _ in range(plan.times)):
            console.print(f"{fault.name}: {fault.what}", style="dim", highlight=False)
            outcomes.append(await _strike(fault, scene, load, capacity, plan.recovery_s))
    # What was still being read when the last fault was over belongs to it.
    outcomes[-1].tally.add(load.take())
    console.print(table(outcomes))
    for reason in sorted({reason for outcome in outcomes for reason in outcome.tally.reasons}):
        console.print(f"error: {reason}", style="red", markup=False, highlight=False)
    return outcomes


async def _strike(fault: Fault, scene: Scene, load: CountingLoad, capacity: int, recovery_s: float) -> Outcome:
    tally = load.take()
    open_streams, began_s = load.open, time.monotonic()
    try:
        await fault.strike(scene)
    except NotHere as error:
        return Outcome(fault, open_streams, tally, None, str(error))
    recovered_s = None
    # Whoever was hurt must be seen to be gone before its successor counts.
    await asyncio.sleep(SETTLE_S)
    while time.monotonic() - began_s < recovery_s:
        if len(await scene.targets.instances()) >= capacity:
            recovered_s = time.monotonic() - began_s
            break
        await asyncio.sleep(_POLL_S)
    await asyncio.sleep(SETTLE_S)
    tally.add(load.take())
    return Outcome(fault, open_streams, tally, recovered_s)


def table(outcomes: Iterable[Outcome]) -> Table:
    """The outcomes, a row each."""
    result = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("fault", "open", "served", "refused", "broken", "cut", "lost", "repeated", "longest pause", "whole"):
        result.add_column(column, justify="left" if column == "fault" else "right", no_wrap=column == "fault")
    for outcome in outcomes:
        tally = outcome.tally
        if outcome.not_here:
            result.add_row(outcome.fault.name, outcome.not_here)
            continue
        numbers = (outcome.open, tally.served, tally.refused, tally.failed, tally.cut, tally.lost, tally.repeated)
        pause = f"{1e3 * max(tally.pauses_s, default=0.0):.0f} ms"
        whole = "never" if outcome.recovered_s is None else f"{outcome.recovered_s:.1f} s"
        style = "" if outcome.is_good else "red"
        result.add_row(outcome.fault.name, *map(str, numbers), pause, whole, style=style)
    return result
