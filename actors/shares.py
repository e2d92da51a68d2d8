"""How much each tenant was served, so that those who wait take turns by what they cost and not by who asks more.

Virtual token counters, as in "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024): a counter per
tenant grows by what it is served, over its weight; whoever waits and has the least is next. One that comes back from
being idle is lifted to the least of those who wait: an idle time is no credit.
"""

from dataclasses import dataclass

from engines.events import Usage
from engines.requests import TenantShare

OUTPUT_COST = 2.0
"""What a generated token costs beside one of the prompt, as the paper has it."""


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
        running: How many are served.
    """

    tenant: str
    weight: float
    served: float = 0.0
    waiting: int = 0
    running: int = 0


class Shares:
    """The shares of all tenants at one place where requests wait."""

    def __init__(self) -> None:
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
        return share

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

    def run(self, share: Share) -> None:
        """One of its requests begins to be served, having waited or not."""
        if not share.waiting:
            share.served = max(share.served, self._floor())
        self._last = max(self._last, share.served)
        share.running += 1

    def run_no_more(self, share: Share) -> None:
        """One of its requests is not served any more."""
        share.running -= 1
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
