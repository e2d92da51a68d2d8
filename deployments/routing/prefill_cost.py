"""What it costs to send a request to an instance: about the seconds until it begins to answer.

    (2 * uncached + queued) / rate + 0.02 * (uncached / rate) * decodes + waking

`uncached` and `queued` are tokens of prompts that have to be computed, of the request itself and of those before it;
`rate` is how many of them the instance computes in a second, and each sequence that it decodes meanwhile slows that
down. The request's own tokens count twice: once for its own wait, once for those that come after it and wait for them.
`waking` is 0 where the instance is awake. To wake one that sleeps counts twice as well, for the request's own wait and
for what it takes of the machine; to wait for one that is being woken counts once. So requests that come together wake
one, and another only for as much work as its waking is worth.
The form was found by simulation on a real trace (docs/routing.md). What matters most is that the queue is counted in
tokens.
"""

from collections.abc import Sequence
from typing import Protocol

OWN_WEIGHT = 2.0
"""How often a request's own tokens count."""
DECODE_SHARE = 0.02
"""By how much each running sequence slows the prefill of another down."""
LEAST_TOKENS = 1024
"""A shorter prompt is slowed down as one of so many tokens: what it is to be spared then is a crowd of sequences."""
PRIOR_RATE = 10_000.0
"""Tokens in a second, where no instance has told any."""


class LoadedInstance(Protocol):
    """An instance, as far as its work matters."""

    @property
    def load(self) -> int:
        """Requests that it runs or queues, whoever sent them, as well as this process knows; n choices count as n."""

    @property
    def queued_tokens(self) -> int:
        """Tokens of prompts that it has to compute, likewise."""

    @property
    def prefill_rate(self) -> float:
        """How many of them it computes in a second; 0: unknown."""

    @property
    def wake_s(self) -> float:
        """Seconds that it takes to wake; 0: it is awake."""

    @property
    def accelerator(self) -> str:
        """What it computes on."""


def prefill_costs(instances: Sequence[LoadedInstance], uncached: Sequence[float]) -> list[float]:
    """The cost of each instance, in seconds, for a request of which it would have to compute so many tokens."""
    rates = _rates(instances)
    return [
        (OWN_WEIGHT * tokens + instance.queued_tokens + DECODE_SHARE * max(tokens, LEAST_TOKENS) * instance.load) / rate
        + _waking_s(instance)
        for instance, tokens, rate in zip(instances, uncached, rates, strict=True)
    ]


def _waking_s(instance: LoadedInstance) -> float:
    wake_s = instance.wake_s
    return wake_s if not wake_s or instance.load else OWN_WEIGHT * wake_s


class Costs:
    """What the requests that were placed so far cost, by the terms of the form above, in seconds.

    Attributes:
        own_s: To compute the prompts themselves.
        queued_s: To compute those before them.
        decoding_s: By which sequences that are decoded slow that down.
    """

    def __init__(self) -> None:
        self.own_s = self.queued_s = self.decoding_s = 0.0

    def count(self, instance: LoadedInstance, tokens: int) -> None:
        """A request is placed, of which an instance has so many tokens to compute."""
        rate = instance.prefill_rate or PRIOR_RATE
        self.own_s += tokens / rate
        self.queued_s += instance.queued_tokens / rate
        self.decoding_s += DECODE_SHARE * tokens * instance.load / rate


def _rates(instances: Sequence[LoadedInstance]) -> list[float]:
    """The rate of each: the mean of all that compute on the same, since what one alone measures is its requests'."""
    told: dict[str, list[float]] = {}
    for instance in instances:
        if instance.prefill_rate > 0:
            told.setdefault(instance.accelerator, []).append(instance.prefill_rate)
    means = {accelerator: sum(rates) / len(rates) for accelerator, rates in told.items()}
    other = sum(means.values()) / len(means) if means else PRIOR_RATE
    return [means.get(instance.accelerator, other) for instance in instances]
