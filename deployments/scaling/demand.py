"""What is asked of one model: what the router replicas report of it, and their sum.

Only the standard library is imported here and in the rest of this package: Serve's controller, where the policy runs,
gets it by value and need not have Penstock installed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

BACKED_UP_S = 1.0
"""An instance on which a request has waited for so long has more to do than it can."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one router replica has of one model, or what all have together.

    Attributes:
        held: Requests that no instance has taken.
        queued: Requests that an instance has taken, of which nothing has come yet.
        running: Requests of which something has come, and that have not ended.
        waiting_tokens: Tokens of the prompts of those held and queued, as far as known.
        backed_up: Instances on which a request has waited for a second or more; of the router replica that has most.
        prefill_rate: Prompt tokens over the time to the first token, of the quickest of the last long prompts: one
            instance computes at least so many in a second. 0: not known.
        arrived: Requests so far.
        arrived_tokens: Tokens of their prompts, as far as known.
        prefilled_tokens: Of those prompts of which an answer has begun: the tokens that had to be computed.
        skipped_tokens: Likewise, the tokens that came from a prefix cache.
        finished: Requests that have ended, well or not.
        finished_tokens: Tokens that were generated for those.
        output_tokens: Tokens generated so far.
    """

    held: float = 0.0
    queued: float = 0.0
    running: float = 0.0
    waiting_tokens: float = 0.0
    backed_up: float = 0.0
    prefill_rate: float = 0.0
    arrived: float = 0.0
    arrived_tokens: float = 0.0
    prefilled_tokens: float = 0.0
    skipped_tokens: float = 0.0
    finished: float = 0.0
    finished_tokens: float = 0.0
    output_tokens: float = 0.0

    @property
    def under_way(self) -> float:
        """Requests that have not ended."""
        return self.held + self.queued + self.running

    def stats(self, key: str) -> dict[str, float]:
        """As numbers with names, which is what Serve carries; `key` tells the models apart."""
        return {f"{key}{_SEPARATOR}{name}": float(getattr(self, name)) for name in _NAMES}


_SEPARATOR = "|"
_RATE = "measured_prompt_tokens_per_s"
_NAMES = tuple(field.name for field in fields(Demand))
_SUMS = (
    "arrived",
    "arrived_tokens",
    "prefilled_tokens",
    "skipped_tokens",
    "finished",
    "finished_tokens",
    "output_tokens",
)
"""What only grows."""


def rate_stats(key: str, prompt_tokens_per_s: float) -> dict[str, float]:
    """What was measured of a model, for a policy that begins anew."""
    return {f"{key}{_SEPARATOR}{_RATE}": prompt_tokens_per_s}


def rate_of(stats: Mapping[str, float], key: str) -> float | None:
    """The inverse of `rate_stats`; None where nothing is known."""
    return stats.get(f"{key}{_SEPARATOR}{_RATE}")


def demand_of(stats: Mapping[str, float], key: str) -> Demand | None:
    """The inverse of `Demand.stats`; None where nothing is said of that model, or not all of it."""
    values = [stats.get(f"{key}{_SEPARATOR}{name}") for name in _NAMES]
    known = [value for value in values if value is not None]
    return Demand(*known) if len(known) == len(_NAMES) else None


class DemandSum:
    """The demand for one model, out of the reports of router replicas that come and go.

    What a replica has counted in its life stays counted when it ends, and one that begins anew counts from zero: the
    sums never fall.
    """

    def __init__(self) -> None:
        self._last: dict[str, Demand] = {}
        self._sums = dict.fromkeys(_SUMS, 0.0)

    def add(self, reports: Mapping[str, Demand]) -> Demand:
        """The demand now.

        Args:
            reports: The latest report of each router replica that there is, by its name.
        """
        for router, report in reports.items():
            before = self._last.get(router)
            if before is None and not self._last and not any(self._sums.values()):
                # The first report of all may stand for hours: what came before it is no demand of this moment.
                continue
            for name in _SUMS:
                grown = getattr(report, name) - (0.0 if before is None else getattr(before, name))
                self._sums[name] += max(0.0, grown)
        self._last = dict(reports)
        now = reports.values()
        return Demand(
            held=_total(report.held for report in now),
            queued=_total(report.queued for report in now),
            running=_total(report.running for report in now),
            waiting_tokens=_total(report.waiting_tokens for report in now),
            backed_up=max((report.backed_up for report in now), default=0.0),
            prefill_rate=max((report.prefill_rate for report in now), default=0.0),
            **self._sums,
        )


def _total(values: Iterable[float]) -> float:
    return float(sum(values))
