"""How many instances one model should have.

Demand is work: the tokens that come in, over what one instance does (`work_rates`), and what of it waits already. Up
at once, down only when fewer would have been enough for all of the last `idle_s`: the highest figure of that time
counts. What is not known never takes an instance away.
"""

import math
from collections import deque
from dataclasses import dataclass

from deployments.scaling.demand import Demand
from deployments.scaling.sizing import instances_for
from deployments.scaling.work_rates import PRIOR, MeasuredRates, Rates

WINDOW_S = 120.0
"""Over which the rate of arrivals is taken, or over the idle time where that is shorter."""
SHORT_WINDOW_S = 15.0
"""The same for a surge, which is seen earlier so; it counts once it is more than chance."""
SURGE = 3.0
"""How many standard deviations above the long window's work a surge is. That of the work of n requests at random, of
lengths that vary as those of chats do (c_s^2 = 2), is sqrt(3 n) times the mean work of one."""
BOOT_S = 30.0
"""What a boot takes, before one was seen."""
MARGIN = 1.1
"""An instance is ended only where the others would also be enough for so many times the work: the next small change
would bring it back."""
GAP_S = 30.0
"""After so long without a report nobody knows what went on meanwhile: idle time counts anew."""
OUTPUT_TOKENS = 256.0
PROMPT_TOKENS = 512.0
"""Of one request, before any has ended or come."""
LENGTHS_OVER = 200.0
"""Requests over which the mean lengths are taken."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a model's instances are for.

    Attributes:
        min: Least instances.
        max: Most instances.
        spare: How many more than the demand asks for are kept booted, within `max`.
        wait_s: So long may 99 of 100 requests wait.
        counts_prefill: Whether that is until their first token, and not only until an engine works on them.
        idle_s: How long an instance must not have been needed before it is ended.
        prior: What one instance does, before that was measured.
    """

    min: int
    max: int
    spare: int = 0
    wait_s: float = 2.0
    counts_prefill: bool = False
    idle_s: float = 300.0
    prior: Rates = PRIOR


@dataclass(frozen=True, slots=True)
class Decision:
    """How many instances a model should have, and why.

    Attributes:
        target: How many.
        wanted: How many the demand of this moment asks for, without regard to how long it has; spares included.
        work: The work that comes in, in instances that it would keep busy.
        backlog_s: The work that waits, in seconds of one instance.
        rates: What one instance is believed to do.
        is_measured: Whether that was measured, be it before this scaler began.
        reason: Why, in one word or two.
    """

    target: int
    wanted: int
    work: float
    backlog_s: float
    rates: Rates
    reason: str
    is_measured: bool = False


class Scaler:
    """Decides for one model. It is told the time, and so runs on any clock that does not go back.

    Args:
        goal: What the instances are for.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self._window_s = min(WINDOW_S, max(SHORT_WINDOW_S, goal.idle_s))
        self._rates = MeasuredRates(goal.prior)
        self._samples: deque[tuple[float, Demand]] = deque()
        # The highest demand of the last idle_s, in instances: times and figures, the figures falling.
        self._wanted: deque[tuple[float, int]] = deque()
        self._since_s = math.inf
        self._output_tokens = _Mean(OUTPUT_TOKENS)
        self._prompt_tokens = _Mean(PROMPT_TOKENS)
        self._computed = _Mean(1.0)  # Part of the prompts' tokens that no prefix cache had.
        self._boot_s = BOOT_S
        self._growing: tuple[float, int] | None = None

    @property
    def rates(self) -> Rates:
        """What one instance is believed to do."""
        return self._rates.rates

    def recall(self, now_s: float, prompt_tokens_per_s: float) -> None:
        """Takes up what was measured before: policies come and go with the controller and with each deployment."""
        self._rates.recall(now_s, prompt_tokens_per_s)

    def decide(self, now_s: float, demand: Demand | None, *, target: int, ready: int, is_whole: bool) -> Decision:
        """How many instances there should be.

        Args:
            now_s: The time.
            demand: What is asked of the model; None: nobody has said anything new.
            target: How many there are to be by now.
            ready: How many of those have booted.
            is_whole: Whether every router replica was heard; if not, there may be more demand than that.

        Returns:
            The decision; its target is `target` itself, within the bounds, where nothing is known.
        """
        goal = self.goal
        kept = min(max(target, goal.min), goal.max)
        if demand is None:
            kept = max(kept, self._with_spare(0))
            return self._decision(kept, kept, 0.0, 0.0, "no reports")
        self._watch_boots(now_s, target, ready)
        self._learn(now_s, demand, ready)
        self._keep(now_s, demand)
        work, backlog_s = self._work(now_s), self._work_s(demand.waiting_tokens, demand.held + demand.queued)
        busy = self._size(demand, work, backlog_s, ready)
        self._remember(now_s, max(busy, self._size(demand, MARGIN * work, backlog_s, ready)))
        wanted = self._with_spare(busy)
        if wanted > kept:
            reason = "spare" if busy <= kept else "backlog" if backlog_s > work else "load"
            return self._decision(wanted, wanted, work, backlog_s, reason)
        if not is_whole:
            return self._decision(kept, wanted, work, backlog_s, "not all routers heard")
        if now_s - self._since_s < goal.idle_s:
            return self._decision(kept, wanted, work, backlog_s, "not watched for long enough")
        most_busy = self._wanted[0][1]
        needed = min(kept, self._with_spare(most_busy))
        if needed == 0 and demand.under_way > 0:
            needed = 1
        reason = "enough" if needed == kept else "less load" if most_busy else "idle"
        return self._decision(needed, wanted, work, backlog_s, reason)

    def _with_spare(self, busy: int) -> int:
        """How many there are to be where the demand asks for so many."""
        return min(max(busy + self.goal.spare, self.goal.min), self.goal.max)

    def _decision(self, target: int, wanted: int, work: float, backlog_s: float, reason: str) -> Decision:
        return Decision(target, wanted, work, backlog_s, self._rates.rates, reason, self._rates.is_measured)

    def _size(self, demand: Demand, work: float, backlog_s: float, ready: int) -> int:
        """How many instances the demand of this moment asks for, whatever else there is to be."""
        goal = self.goal
        _, before = self._samples[max(0, len(self._samples) - 2)]
        if not demand.under_way and (not work or demand.arrived == before.arrived):
            # How long that must last is another matter.
            return 0
        service_s = self._rates.rates.work_s(self._prompt_tokens.value * self._computed.value, 0.0)
        wait_s = goal.wait_s
        if goal.counts_prefill:
            # However many there are, the work on a prompt is one instance's.
            wait_s = max(0.25 * wait_s, wait_s - service_s)
        # What the instances are just at is no queue; and one that boots is too late for what is gone by then.
        late_s = max(0.0, backlog_s - ready * self._work_s(self._prompt_tokens.value, 1))
        work += late_s / max(wait_s, self._boot_s)
        # However much one request is, no more instances work on it.
        _, long = self._since(self._samples[-1][0] - self._window_s)
        most = min(goal.max, math.ceil(max(demand.under_way, demand.arrived - long.arrived)))
        return min(max(instances_for(work, service_s, wait_s, most), 1), goal.max)

    def _work_s(self, prompt_tokens: float, requests: float) -> float:
        return self._rates.rates.work_s(prompt_tokens * self._computed.value, requests * self._output_tokens.value)

    def _work(self, now_s: float) -> float:
        """The work that comes in, or is done, whichever is more, in seconds of an instance per second."""
        now = self._samples[-1][1]
        long_s, long = self._since(now_s - self._window_s)
        short_s, short = self._since(now_s - SHORT_WINDOW_S)
        over_s = max(now_s - long_s, SHORT_WINDOW_S)
        work = self._work_s(now.arrived_tokens - long.arrived_tokens, now.arrived - long.arrived) / over_s
        lately = now.arrived - short.arrived
        usual = (now.arrived - long.arrived) * (now_s - short_s) / over_s
        if lately > usual + SURGE * math.sqrt(3 * (usual + 1)):
            short_work_s = self._work_s(now.arrived_tokens - short.arrived_tokens, lately)
            work = max(work, short_work_s / max(now_s - short_s, SHORT_WINDOW_S))
        # Long answers go on when nothing new comes in.
        generated = now.output_tokens - long.output_tokens
        return max(work, self._rates.rates.work_s(0.0, generated) / over_s)

    def _since(self, at_s: float) -> tuple[float, Demand]:
        """The last sample of that time or before, or the first."""
        found = self._samples[0]
        for sample in self._samples:
            if sample[0] > at_s:
                break
            found = sample
        return found

    def _keep(self, now_s: float, demand: Demand) -> None:
        if self._samples and now_s - self._samples[-1][0] > GAP_S:
            self._samples.clear()
            self._wanted.clear()
            self._since_s = math.inf
        if math.isinf(self._since_s):
            self._since_s = now_s
        self._samples.append((now_s, demand))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - self._window_s:
            self._samples.popleft()

    def _remember(self, now_s: float, wanted: int) -> None:
        while self._wanted and self._wanted[-1][1] <= wanted:
            self._wanted.pop()
        self._wanted.append((now_s, wanted))
        while self._wanted[0][0] < now_s - self.goal.idle_s:
            self._wanted.popleft()

    def _learn(self, now_s: float, demand: Demand, ready: int) -> None:
        """Learns lengths, and rates, from what happened since the last sample."""
        if not self._samples or now_s - self._samples[-1][0] > GAP_S:
            return
        before_s, before = self._samples[-1]
        arrived = demand.arrived - before.arrived
        if arrived >= 1:
            self._prompt_tokens.add((demand.arrived_tokens - before.arrived_tokens) / arrived, arrived)
        finished = demand.finished - before.finished
        output = demand.output_tokens - before.output_tokens
        if finished >= 1:
            self._output_tokens.add((demand.finished_tokens - before.finished_tokens) / finished, finished)
        computed = demand.prefilled_tokens - before.prefilled_tokens
        skipped = demand.skipped_tokens - before.skipped_tokens
        if computed + skipped >= 1:
            requests = (computed + skipped) / max(self._prompt_tokens.value, 1.0)
            self._computed.add(computed / (computed + skipped), requests)
        if demand.prefill_rate:
            self._rates.saw_prompts(demand.prefill_rate)
        is_busy = all(one.backed_up >= max(1, ready) for one in (before, demand))
        self._rates.note(now_s, now_s - before_s, ready, computed, output, is_busy=is_busy)

    def _watch_boots(self, now_s: float, target: int, ready: int) -> None:
        """Learns what a boot takes, from when a higher target was first seen to when so many were ready."""
        growing = self._growing
        if growing is not None and ready >= growing[1]:
            self._boot_s += 0.5 * (now_s - growing[0] - self._boot_s)
            self._growing = None
        elif target <= ready:
            self._growing = None
        elif growing is None:
            self._growing = (now_s, target)


class _Mean:
    """A mean over the last requests, about; a guess counts as one request."""

    __slots__ = ("_over", "value")

    def __init__(self, guess: float) -> None:
        self.value = guess
        self._over = 1.0

    def add(self, mean: float, requests: float) -> None:
        """Adds so many requests with this mean."""
        self._over = min(self._over + requests, LENGTHS_OVER + requests)
        self.value += requests / self._over * (mean - self.value)
