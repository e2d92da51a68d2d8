"""A fleet of simulated engines on a virtual clock: an hour of it takes seconds.

Each engine takes steps as `engines.simulated` does, with its times: waiting prompts are computed in pieces, in the
order in which they came, beside one token for each sequence that has its prompt. Steps in which nothing begins or ends
are taken at once.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from deployments.scaling.demand import BACKED_UP_S, Demand
from deployments.scaling.scaler import Decision, Scaler
from engines.simulated.options import StepTime


@dataclass(slots=True, eq=False)
class TraceRequest:
    """One request of a trace, and what became of it."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    left: int = 0
    first_s: float = math.nan
    done_s: float = math.nan
    dispatched_s: float = math.nan

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.at_s


@dataclass(slots=True)
class Machine:
    """What one simulated engine does."""

    step_time: StepTime
    max_num_seqs: int = 256
    max_batched_tokens: int = 2048
    max_tokens: int = 131_072


@dataclass(slots=True, eq=False)
class SimulatedInstance:
    """One engine."""

    machine: Machine
    born_s: float
    ready_s: float
    now_s: float = 0.0
    waiting: deque[TraceRequest] = field(default_factory=deque)
    running: list[TraceRequest] = field(default_factory=list)
    context: int = 0
    is_draining: bool = False

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.running)

    def submit(self, request: TraceRequest, now_s: float) -> None:
        if not self.load:
            self.now_s = max(self.now_s, now_s)
        request.left = request.prompt_tokens
        request.dispatched_s = now_s
        self.waiting.append(request)

    def run(self, until_s: float, fleet: "SimulatedFleet") -> None:
        """Takes steps until then; the last one may end later."""
        machine, time = self.machine, self.machine.step_time
        while self.now_s < until_s and self.load:
            budget, started = machine.max_batched_tokens - len(self.running), []
            prefill = 0
            for request in self.waiting:
                room = len(self.running) + len(started) < machine.max_num_seqs
                fits = self.context + request.prompt_tokens <= machine.max_tokens or not self.running
                if budget <= 0 or not room or not fits:
                    break
                piece = min(budget, request.left)
                request.left -= piece
                budget -= piece
                prefill += piece
                if request.left == 0:
                    started.append(request)
                else:
                    break
            sequences = len(self.running)
            step_s = (
                time.base_s
                + time.prefill_token_s * prefill
                + time.decode_sequence_s * sequences
                + time.context_token_s * self.context
            )
            steps = 1
            if not prefill:
                ends = min(request.left for request in self.running)
                steps = max(1, min(ends, math.ceil((until_s - self.now_s) / step_s)))
                # Each step looks back on one token more of each sequence.
                step_s += time.context_token_s * sequences * (steps - 1) / 2
            self.now_s += steps * step_s
            self.context += sequences * steps
            fleet.output_tokens += sequences * steps
            self._end(steps, fleet)
            for _ in started:
                self._start(self.waiting.popleft(), fleet)

    def _end(self, steps: int, fleet: "SimulatedFleet") -> None:
        ended = False
        for request in self.running:
            request.left -= steps
            if request.left <= 0:
                request.done_s = self.now_s
                fleet.finished_tokens += request.output_tokens
                self.context -= request.prompt_tokens + request.output_tokens
                ended = True
        if ended:
            self.running = [request for request in self.running if math.isnan(request.done_s)]

    def _start(self, request: TraceRequest, fleet: "SimulatedFleet") -> None:
        request.first_s = self.now_s
        fleet.prefilled(request)
        if request.output_tokens <= 1:
            request.done_s = self.now_s
            fleet.finished_tokens += 1
            return
        request.left = request.output_tokens - 1
        self.context += request.prompt_tokens + 1
        self.running.append(request)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run was like.

    Attributes:
        ttft_s: Times to first token, sorted.
        instance_hours: Hours of instances, boots and drains included.
        ups, downs: How often the target rose, and fell.
        flaps: How often it rose within `flap_s` after it fell, or the other way round.
        peak: Most instances.
        cold_starts: Requests that waited for a first instance.
        lost: Requests that did not end.
        targets: The target at the end of each tick.
    """

    ttft_s: Sequence[float]
    instance_hours: float
    ups: int
    downs: int
    flaps: int
    peak: int
    cold_starts: int
    lost: int
    targets: Sequence[int]

    def ttft_at(self, quantile: float) -> float:
        return self.ttft_s[min(len(self.ttft_s) - 1, int(quantile * len(self.ttft_s)))]


class SimulatedFleet:
    """Instances of one model, a router that sends each request to the least loaded, and maybe a scaler.

    Args:
        machine: What one engine does.
        boot_s: What a boot takes.
        instances: How many there are at the beginning, ready.
        scaler: Decides how many there are; None: they stay.
        tick_s: How often the scaler is asked.
    """

    def __init__(
        self, machine: Machine, boot_s: float, instances: int, scaler: Scaler | None = None, tick_s: float = 1.0
    ) -> None:
        self._machine = machine
        self._boot_s = boot_s
        self._instances = [SimulatedInstance(machine, 0.0, 0.0) for _ in range(instances)]
        self._scaler = scaler
        self._tick_s = tick_s
        self._target = instances
        self._held: deque[TraceRequest] = deque()
        self._arrived = self._arrived_tokens = 0
        self._prefilled_tokens = 0
        self._rates: deque[float] = deque(maxlen=64)
        self.output_tokens = self.finished_tokens = 0
        self._instance_s = 0.0
        self.decisions: list[Decision] = []

    def prefilled(self, request: TraceRequest) -> None:
        """An answer has begun."""
        self._prefilled_tokens += request.prompt_tokens
        self.output_tokens += 1
        if request.prompt_tokens >= 512:
            self._rates.append(request.prompt_tokens / (request.first_s - request.dispatched_s))

    def run(self, requests: Sequence[TraceRequest], flap_s: float = 60.0, tail_s: float = 0.0) -> Outcome:
        """Serves a trace, whose requests are sorted by time, and `tail_s` after its last request."""
        coming = deque(requests)
        now_s, targets, peak, cold = 0.0, [self._target], len(self._instances), 0
        end_s = (requests[-1].at_s if requests else 0.0) + tail_s
        while coming or now_s < end_s or self._held or any(instance.load for instance in self._instances):
            tick_end_s = now_s + self._tick_s
            while coming and coming[0].at_s < tick_end_s:
                request = coming.popleft()
                self._arrived += 1
                self._arrived_tokens += request.prompt_tokens
                for instance in self._instances:
                    instance.run(request.at_s, self)
                cold += not self._dispatch(request, request.at_s)
            for instance in self._instances:
                instance.run(tick_end_s, self)
            now_s = tick_end_s
            while self._held and self._ready(now_s):
                self._dispatch(self._held.popleft(), now_s)
            self._instance_s += self._tick_s * len(self._instances)
            self._instances = [one for one in self._instances if not one.is_draining or one.load]
            if self._scaler is not None:
                self._scale(now_s)
            targets.append(self._target)
            peak = max(peak, self._target)
        changes = [(tick, after - before) for tick, (before, after) in enumerate(pairwise(targets)) if after != before]
        return Outcome(
            ttft_s=sorted(request.ttft_s for request in requests if not math.isnan(request.first_s)),
            instance_hours=self._instance_s / 3600,
            ups=sum(change > 0 for _, change in changes),
            downs=sum(change < 0 for _, change in changes),
            flaps=sum(
                first * second < 0 and (later - earlier) * self._tick_s < flap_s
                for (earlier, first), (later, second) in pairwise(changes)
            ),
            peak=peak,
            cold_starts=cold,
            lost=sum(math.isnan(request.done_s) for request in requests),
            targets=targets,
        )

    def _ready(self, now_s: float) -> list[SimulatedInstance]:
        return [one for one in self._instances if one.ready_s <= now_s and not one.is_draining]

    def _dispatch(self, request: TraceRequest, now_s: float) -> bool:
        ready = self._ready(now_s)
        if not ready:
            self._held.append(request)
            return False
        min(ready, key=lambda one: one.load).submit(request, now_s)
        return True

    def _scale(self, now_s: float) -> None:
        assert self._scaler is not None
        waiting = [request for one in self._instances for request in one.waiting]
        late_s = now_s - BACKED_UP_S
        backed_up = sum(any(request.dispatched_s < late_s for request in one.waiting) for one in self._instances)
        running = sum(len(one.running) for one in self._instances)
        demand = Demand(
            held=len(self._held),
            queued=len(waiting),
            running=running,
            waiting_tokens=sum(request.left for request in waiting)
            + sum(request.prompt_tokens for request in self._held),
            backed_up=backed_up,
            prefill_rate=max(self._rates) if len(self._rates) >= 8 else 0.0,
            arrived=self._arrived,
            arrived_tokens=self._arrived_tokens,
            prefilled_tokens=self._prefilled_tokens,
            finished=self._arrived - len(waiting) - len(self._held) - running,
            finished_tokens=self.finished_tokens,
            output_tokens=self.output_tokens,
        )
        ready = len(self._ready(now_s))
        decision = self._scaler.decide(now_s, demand, target=self._target, ready=ready, is_whole=True)
        self.decisions.append(decision)
        staying = [one for one in self._instances if not one.is_draining]
        for _ in range(decision.target - len(staying)):
            self._instances.append(SimulatedInstance(self._machine, now_s, now_s + self._boot_s))
        # As Serve does, the newest that still boot go first, then those with the least work.
        surplus = (
            heapq.nsmallest(len(staying) - decision.target, staying, key=lambda one: (one.ready_s <= now_s, one.load))
            if decision.target < len(staying)
            else []
        )
        for one in surplus:
            one.is_draining = True
        self._target = decision.target
