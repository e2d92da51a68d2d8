"""Chaos: a load of counting requests, one fault after another, and a table of what the clients saw."""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from clusters.api_client import ApiClient
from clusters.boot_screen import plain_table
from clusters.chaos.answer import Tally
from clusters.chaos.counting import Arrivals, CountingLoad
from clusters.chaos.faults import Fault, NotHere, Scene
from clusters.chaos.targets import Targets
from clusters.errors import ClusterError
from clusters.status import scrape

WARM_UP_S = 2.0
SETTLE_S = 2.0
"""How long a load goes on after a fault, and again after the fleet has its full capacity back."""
_POLL_S = 0.1
_TOLD_S = 6.0
"""Longer than the routers take to tell a new directory what they have counted."""


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """What to do.

    Attributes:
        url: Where the fleet answers.
        fleet: Its name.
        model: Which model counts.
        faults: What happens, one after another.
        arrivals: How requests to count come.
        length: Numbers of each answer.
        times: How often each fault happens.
        recovery_s: What the fleet gets to have its full capacity again after a fault.
        seed: Of the choice of victims.
    """

    url: str
    fleet: str
    model: str
    faults: Sequence[Fault]
    arrivals: Arrivals
    length: int
    times: int = 1
    recovery_s: float = 120.0
    seed: int = 0


@dataclass(slots=True)
class Outcome:
    """What one fault did, each time that it happened.

    Attributes:
        fault: Which one.
        open: Answers that were being read when it happened.
        moved: Streams that broke and went on elsewhere, as the fleet counts them.
        pauses_s: The longest pause in each answer whose instance it took.
        recovered_s: Seconds to full capacity; None: not within the time it got.
        tally: What became of the requests from then on.
        not_here: Why it could not happen; empty when it did.
    """

    fault: Fault
    open: list[int] = field(default_factory=list)
    moved: int = 0
    pauses_s: list[float] = field(default_factory=list)
    recovered_s: list[float | None] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    not_here: str = ""

    @property
    def is_good(self) -> bool:
        """Whether no client saw anything of it, except where nothing can be done about it."""
        cut = self.tally.cut and not self.fault.cuts
        return self.tally.is_whole and not cut and None not in self.recovered_s


async def run_chaos(plan: ChaosPlan, console: Console) -> list[Outcome]:
    """Runs the plan, and shows what came of it."""
    outcomes = [Outcome(fault) for fault in plan.faults]
    async with CountingLoad(plan.url, plan.model, plan.arrivals, plan.length) as load:
        chaos = _Chaos(plan, load)
        await asyncio.sleep(WARM_UP_S)
        for outcome in outcomes:
            console.print(f"{outcome.fault.name}: {outcome.fault.what}", style="dim", highlight=False)
            for _ in range(plan.times):
                await chaos.strike(outcome)
    # What was still being read when the last fault was over belongs to it.
    outcomes[-1].tally.add(load.take())
    console.print(table(outcomes))
    for reason in sorted({reason for outcome in outcomes for reason in outcome.tally.reasons}):
        console.print(f"error: {reason}", style="red", markup=False, highlight=False)
    return outcomes


class _Chaos:
    def __init__(self, plan: ChaosPlan, load: CountingLoad) -> None:
        self._load = load
        self._client = ApiClient(plan.url)
        self._model = plan.model
        self._recovery_s = plan.recovery_s
        self._targets = Targets(plan.fleet)
        self._scene = Scene(self._targets, plan.url, plan.model, load, random.Random(plan.seed))  # noqa: S311
        self._capacity = 0

    async def strike(self, outcome: Outcome) -> None:
        """Lets the fault happen once, and watches what comes of it."""
        self._capacity = self._capacity or len(await self._targets.instances())
        moved_before = await self._moved()
        await self._load.is_read()
        is_open, began_s = len(self._load.open), time.monotonic()
        try:
            victims = await outcome.fault.strike(self._scene)
        except NotHere as error:
            outcome.not_here = str(error)
        else:
            outcome.open.append(is_open)
            await asyncio.sleep(SETTLE_S)
            outcome.recovered_s.append(await self._recovered_s(began_s))
            await asyncio.sleep(SETTLE_S)
            # What a router that dies has counted since it last told the others is gone with it.
            outcome.moved += max(0, await self._moved(moved_before) - moved_before)
            outcome.pauses_s += [answer.pause_s for answer in self._scene.hit if answer.instance in victims]
        outcome.tally.add(self._load.take())

    async def _moved(self, at_least: int = 0) -> int:
        """Streams that were moved so far. A new directory knows of all routers only when each has told it again."""
        deadline_s = time.monotonic() + self._recovery_s
        told_s = time.monotonic() + _TOLD_S
        while True:
            try:
                metrics = await asyncio.to_thread(scrape, self._client)
            except ClusterError:
                # Without the directory no router knows the others' figures.
                if time.monotonic() > deadline_s:
                    raise
            else:
                moved = metrics.moved.get(self._model, 0)
                if moved >= at_least or time.monotonic() > told_s:
                    return moved
            await asyncio.sleep(_POLL_S)

    async def _recovered_s(self, began_s: float) -> float | None:
        while time.monotonic() - began_s < self._recovery_s:
            if len(await self._targets.instances()) >= self._capacity:
                return time.monotonic() - began_s
            await asyncio.sleep(_POLL_S)
        return None


def table(outcomes: Iterable[Outcome]) -> Table:
    """The outcomes, a row each: the pauses of the answers whose instance it took, and the longest waits of all."""
    result = plain_table()
    for column in (
        *("fault", "times", "open", "moved", "served", "refused", "broken", "cut", "taken up", "lost", "repeated"),
        *("pause p50", "pause p99", "pause max", "first max", "whole after"),
    ):
        result.add_column(column, justify="left" if column == "fault" else "right", no_wrap=column == "fault")
    for outcome in outcomes:
        tally = outcome.tally
        if outcome.not_here:
            result.add_row(outcome.fault.name, outcome.not_here)
            continue
        events = (len(outcome.open), min(outcome.open), outcome.moved)
        ends = (tally.served, tally.refused, tally.failed, tally.cut, tally.taken_up, tally.lost, tally.repeated)
        pauses = (_ms(outcome.pauses_s, 0.5), _ms(outcome.pauses_s, 0.99))
        longest = (_ms([tally.pause_s], 1), _ms([tally.first_s], 1))
        whole = "never" if None in outcome.recovered_s else f"{max(filter(None, outcome.recovered_s)):.1f} s"
        style = "" if outcome.is_good else "red"
        result.add_row(outcome.fault.name, *map(str, (*events, *ends)), *pauses, *longest, whole, style=style)
    return result


def _ms(seconds: Sequence[float], share: float) -> str:
    """The value that so large a share of them does not exceed."""
    return f"{1e3 * sorted(seconds)[round(share * (len(seconds) - 1))]:.0f} ms" if seconds else ""
