"""How many instances keep a goal, out of how much work comes in."""

import math

MOST_USE = 0.85
"""No instance is planned to be busy for more of its time: what comes in is never as even as its mean."""
VARIABILITY = 1.5
"""(c_a^2 + c_s^2) / 2 in the formula below: arrivals at random (c_a = 1), and lengths of prompts that vary more than
exponentially (c_s^2 = 2), as those of chats do."""
P99_OVER_MEAN = 4.6
"""The mean wait that goes with a wait of the slowest hundredth: ln(100), for waits that fall off exponentially."""


def mean_wait_s(instances: int, work: float, service_s: float) -> float:
    """The mean time that a request waits, by Sakasegawa's approximation for a queue before several servers (1977).

    Args:
        instances: How many work.
        work: How many would be busy all the time: the work that comes in, in seconds of an instance per second.
        service_s: What a request takes of an instance before its first token.
    """
    use = work / instances
    if use >= 1:
        return math.inf
    growth: float = use ** (math.sqrt(2 * (instances + 1)) - 1)
    return VARIABILITY * growth / (instances * (1 - use)) * service_s


def instances_for(work: float, service_s: float, wait_s: float, most: int) -> int:
    """The least instances of which 99 of 100 requests wait no longer than that; `most` where none are enough.

    Args:
        work: The work that comes in, in seconds of an instance per second.
        service_s: What a request takes of an instance before its first token.
        wait_s: How long it may wait.
        most: Where to stop.
    """
    if work <= 0:
        return 0
    least = max(1, math.ceil(work / MOST_USE))
    for instances in range(least, most):
        if mean_wait_s(instances, work, service_s) * P99_OVER_MEAN <= wait_s:
            return instances
    return most
