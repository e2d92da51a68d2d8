"""How much of prompts an instance has to compute, and how fast it does: what routers weigh."""

import time
from collections.abc import Callable

from engines.events import Usage

_MEMORY_S = 60.0
"""Busy seconds over which the rate is taken, about."""
_KNOWN_S = 1.0
"""Busy seconds from which on there is a rate."""


class PrefillMeter:
    """Counts the prompts of one instance from their arrival to their first token.

    A prompt counts with the tokens that its router expects to be computed, until its first token: what of it is
    computed already, nobody tells.

    Args:
        clock: Seconds that only grow.

    Attributes:
        waiting_tokens: Of the prompts that have got no token yet.
        written_tokens: Put into the KV cache since the instance began, prompts and answers.
        prompt_tokens, cached_tokens: Of the prompts that were answered since, and how many of them were cached.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.waiting_tokens = 0
        self.written_tokens = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self._waiting = 0
        self._since_s = 0.0
        self._busy_s = 0.0
        self._work = 0.0

    @property
    def rate(self) -> float:
        """Tokens of prompts that it computes in a second, beside what else it does; 0 until that is known."""
        return self._work / self._busy_s if self._busy_s >= _KNOWN_S else 0.0

    def enter(self, tokens: int) -> None:
        """A prompt arrived."""
        if not self._waiting:
            self._since_s = self._clock()
        self._waiting += 1
        self.waiting_tokens += tokens

    def begin(self, tokens: int) -> None:
        """A prompt got its first token."""
        self.leave(tokens)
        self._work += tokens

    def leave(self, tokens: int) -> None:
        """A prompt ended without one."""
        now_s = self._clock()
        self._busy_s += now_s - self._since_s
        self._since_s = now_s
        if self._busy_s > _MEMORY_S:
            self._busy_s /= 2
            self._work /= 2
        self._waiting -= 1
        self.waiting_tokens -= tokens

    def finish(self, usage: Usage) -> None:
        """A request came to its end."""
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.written_tokens += max(0, usage.prompt_tokens - usage.cached_tokens) + usage.completion_tokens
