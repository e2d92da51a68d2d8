"""The few statistics that the benchmarks report."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed (nearest rank); 0 for none."""
    if not values:
        return 0.0
    ranked = sorted(values)
    # Rounded first: 0.99 * 100 is a little over 99 in binary, and would name the 100th.
    rank = -int(-round(share * len(ranked), 9) // 1)
    return ranked[max(rank, 1) - 1]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and how far they lay apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The spread of ours over theirs, round by round.

    Rounds are paired before anything is averaged: the two of a pair ran one after the other, so the machine's drift
    over the whole run cancels out.

    Raises:
        ValueError: The two have different numbers of rounds.
    """
    return Spread.of([our / their for our, their in zip(ours, theirs, strict=True)])
