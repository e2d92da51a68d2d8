"""How much each tenant was served, so that those who wait take turns by what they cost and not by who asks more.

Virtual token counters, as in "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024): a counter per
tenant grows by what it is served, over its weight; whoever waits and has the least is next. One that comes back from
being idle is lifted to the least of those who wait: an idle time is no credit.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from engines.events import Usage
from engines.requests import TenantShare

OUTPUT_COST = 2.0
"""What a generated token costs beside one of the prompt, as the paper has it."""
LATELY_S = 30.0
"""For so long after its last request a tenant is expected to come again."""


def cost_of(usage: Usage) -> float:
    """What a request has cost that is over, in tokens of the prompt. Those from the prefix cache cost nothing."""
    return usage.prompt_tokens - usage.cached_tokens + OUTPUT_COST * usage.completion_tokens


@dataclass(slots=True, eq=False)
class Share:
    """What one tenant has had at one place.

    Attributes:
        tenant: Its name; empty: whoever came without one.
        weight: Its share beside the others'.
        served: What it was served so far, over its weight; only to be compared with others'.
        waiting: How many of its requests wait.
        running: How much of the place those take that are served.
    """

    tenant: str
    weight: float
    served: float = 0.0
    waiting: int = 0
    running: int = 0


class Shares:
    """The shares of all tenants at one place where requests wait.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Of each tenant that came lately: its weight, and when.
        self._came: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._weight = 0.0  # Of all those.
        self._shares: dict[str, Share] = {}
        self._waiting: set[Share] = set()
        self._last = 0.0  # What the one had been served, before that, whose turn came last.

    def of(self, tenant: TenantShare | None) -> Share:
        """The share of a tenant, with the weight that it has now."""
        name, weight = ("", 1.0) if tenant is None else (tenant.name, tenant.weight)
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = Share(name, weight, self._floor())
        share.weight = weight
        self._weight += weight - self._came.pop(name, (0.0, 0.0))[0]
        self._came[name] = (weight, self._clock())
        return share

    def part(self, share: Share) -> float:
        """Its part of the place, 0 to 1, if all get theirs that have come lately."""
        too_early_s = self._clock() - LATELY_S
        while self._came and next(iter(self._came.values()))[1] < too_early_s:
            self._weight -= self._came.popitem(last=False)[1][0]
        others = self._weight - self._came.get(share.tenant, (0.0, 0.0))[0]
        return share.weight / (share.weight + max(0.0, others))

    def wait(self, share: Share) -> None:
        """One of its requests begins to wait."""
        if not share.waiting:
            share.served = max(share.served, self._floor())
            self._waiting.add(share)
        share.waiting += 1

    def wait_no_more(self, share: Share) -> None:
        """One of its requests does not wait any more, and is served or not."""
        share.waiting -= 1
        if not share.waiting:
            self._waiting.discard(share)
            self._forget(share)

    def run(self, share: Share, room: int) -> None:
        """One of its requests begins to be served, having waited or not."""
        if not share.waiting:
            share.served = max(share.served, self._floor())
        self._last = max(self._last, share.served)
        share.running += room

    def run_no_more(self, share: Share, room: int) -> None:
        """One of its requests is not served any more."""
        share.running -= room
        self._forget(share)

    def charge(self, share: Share, cost: float) -> None:
        """It was served so much more."""
        share.served += cost / share.weight

    def _floor(self) -> float:
        return min((share.served for share in self._waiting), default=self._last)

    def _forget(self, share: Share) -> None:
        # One that would be lifted anyway need not be remembered: tenants come and go.
        if not share.waiting and not share.running and share.served <= self._floor():
            self._shares.pop(share.tenant, None)
