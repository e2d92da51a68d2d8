"""One instance, as this router replica sees it: its load, whether it takes requests, and the way to it."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from actors.directory.known_instance import Instance, InstanceState
from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.contract import Capabilities, Load
from engines.requests import GenerateRequest
from engines.sink import Sink

BUSY_S = 0.1
"""How long an instance that refused for want of room is tried last."""
ON_ITS_WAY_S = 0.5
"""What is heard so long after a loss was not sent before it."""


class InstanceEgress(Protocol):
    """The way to one instance: what routing needs of an `actors.channel.egress.Egress`.

    A stream counts itself in `in_flight` before its call first waits, and until it has ended.

    Attributes:
        is_draining: The instance said that it takes no new work.
        heard_s: When it last said anything, on the monotonic clock.
        spoke_s: When its engine last said something of a request.
        waiting_tokens: Of the prompts that this process has sent there and that have got no token yet.
    """

    waiting_tokens: int
    is_draining: bool
    heard_s: float
    spoke_s: float

    @property
    def reported(self) -> Load:
        """The instance's load, as it last said; another object with each report."""

    @property
    def is_stalled(self) -> bool:
        """Whether its engine has had work and taken no step for some time."""

    @property
    def in_flight(self) -> int:
        """Streams of this process that are under way on it; one for n choices counts as n."""

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""

    async def start(self) -> None:
        """Opens it."""

    async def probe(self, timeout_s: float) -> None:
        """Returns when the instance can work, as shown by a token; raises otherwise."""

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Closes it; what is under way fails."""

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises a PenstockError before that."""

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises a PenstockError where it cannot."""


class Member:
    """One instance, as this router replica sees it.

    Attributes:
        instance: What the directory last said.
        egress: The open way to it, or None.
        calls: Calls of this replica that are under way on it and are no streams (embeddings).
        busy_until_s: Until then it is tried last, on the monotonic clock.
        left: Set when the directory shows it no more; it does not come back, a new member may.
        neighbour_lost_s: When another instance of its node was last lost, on the monotonic clock.
    """

    __slots__ = (
        "_others",
        "_others_tokens",
        "_refused",
        "_reported",
        "busy_until_s",
        "calls",
        "egress",
        "instance",
        "left",
        "neighbour_lost_s",
    )

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.egress: InstanceEgress | None = None
        self.calls = 0
        self.busy_until_s = 0.0
        self.left = asyncio.Event()
        self.neighbour_lost_s = 0.0
        self._refused = False
        self._reported: Load | None = None
        self._others = 0
        self._others_tokens = 0

    @property
    def id(self) -> str:
        """The instance's id."""
        return self.instance.id

    @property
    def capabilities(self) -> Capabilities:
        """What its engine can do."""
        return self.instance.capabilities

    @property
    def adapters(self) -> Collection[str]:
        """The LoRA adapters that it has loaded, as it last said."""
        return () if self.egress is None else self.egress.reported.adapters

    @property
    def max_loras(self) -> int:
        """How many it has loaded at a time."""
        return self.capabilities.max_loras

    @property
    def incarnation(self) -> int:
        """Which of the instances that had this id it is."""
        return self.instance.incarnation

    @property
    def accelerator(self) -> str:
        """What it computes on."""
        return self.capabilities.accelerator

    @property
    def cache_tokens(self) -> int:
        """How many tokens its KV cache holds; 0: unknown."""
        return self.capabilities.cache_tokens

    @property
    def cache_block_tokens(self) -> int:
        """How many of them one block holds."""
        return self.capabilities.cache_block_tokens

    @property
    def reports_cache(self) -> bool:
        """Whether it says what is in there."""
        return self.capabilities.reports_cache

    @property
    def written_tokens(self) -> int:
        """How many were put into it so far, as it last said."""
        return self.reported.written_tokens

    @property
    def prefill_rate(self) -> float:
        """Tokens of prompts that it computes in a second, as it last said; 0: unknown."""
        return self.reported.prefill_rate

    @property
    def is_full(self) -> bool:
        """Whether requests wait there for others to end, as it last said."""
        return self.reported.is_full

    @property
    def is_asleep(self) -> bool:
        """Whether it must wake first, as it last said."""
        return self.reported.is_asleep

    @property
    def wake_s(self) -> float:
        """What waking takes, as it last said; 0: it is awake."""
        return self.reported.wake_s if self.reported.is_asleep else 0.0

    @property
    def in_flight(self) -> int:
        """Requests of this replica that are under way on it."""
        return self.calls + (0 if self.egress is None else self.egress.in_flight)

    @property
    def load(self) -> int:
        """Requests that it runs or queues: ours as they are now, the others' as it last reported."""
        egress = self.egress
        if egress is None:
            return 0
        self._hear(egress)
        return egress.in_flight + self.calls + self._others

    @property
    def queued_tokens(self) -> int:
        """Tokens of prompts that it has to compute, likewise."""
        egress = self.egress
        if egress is None:
            return 0
        self._hear(egress)
        return egress.waiting_tokens + self._others_tokens

    @property
    def reported(self) -> Load:
        """Its load, as it last said."""
        return self.instance.load if self.egress is None else self.egress.reported

    def _hear(self, egress: InstanceEgress) -> None:
        """Takes what is not ours out of a new report."""
        reported = egress.reported
        if reported is not self._reported:
            # What was reported counts ours, too. Those that are still on their way to it are taken off too much; the
            # next report, a few milliseconds later, puts that right.
            self._reported = reported
            self._others = max(0, reported.running + reported.queued - egress.in_flight - self.calls)
            self._others_tokens = max(0, reported.queued_tokens - egress.waiting_tokens)

    @property
    def is_draining(self) -> bool:
        """Whether it takes no new work, as it said itself or as the directory knows."""
        said = self._refused or (self.egress is not None and self.egress.is_draining)
        return said or self.instance.state is InstanceState.DRAINING

    def mark_draining(self) -> None:
        """It refused a request because it drains; the directory may say so a little later."""
        self._refused = True

    @property
    def is_present(self) -> bool:
        """Whether it is ready as far as anybody knows, reachable for us at this moment or not."""
        return self.instance.state is InstanceState.READY and not (self.is_draining or self.left.is_set())

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent to it."""
        return self.is_present and self.egress is not None and self.egress.ready

    @property
    def is_shaky(self) -> bool:
        """Whether it may be about to be lost: its engine takes no step, or its node may have died a moment ago.

        The node lives if the engine has said something since; or anything has been heard for long enough after, that it
        cannot have been on its way before.
        """
        egress = self.egress
        if egress is None or egress.is_stalled:
            return True
        lost_s = self.neighbour_lost_s
        return lost_s > 0 and egress.spoke_s <= lost_s and egress.heard_s <= lost_s + ON_ITS_WAY_S

    def seen(self) -> Instance:
        """The instance with what this replica knows better than the directory."""
        state = InstanceState.DRAINING if self.is_draining else self.instance.state
        load = self.instance.load if self.egress is None else self.egress.reported
        return replace(self.instance, state=state, load=load)
