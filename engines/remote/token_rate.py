"""A limit to the tokens that one engine takes of a provider in a minute."""

import time
from collections import deque
from collections.abc import Callable

from engines.errors import RateLimited

WINDOW_S = 60.0


class TokenRate:
    """Counts tokens over a sliding minute.

    What a request takes is known when it is over, so requests that began before the limit was reached may go past it.

    Args:
        engine: Name of the engine, for errors.
        limit: Tokens per minute; None: any number, and nothing is counted.
        clock: The time in seconds.
    """

    __slots__ = ("_clock", "_engine", "_limit", "_spent", "_total")

    def __init__(self, engine: str, limit: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._limit = limit
        self._clock = clock
        self._spent: deque[tuple[float, int]] = deque()
        self._total = 0

    def spend(self, tokens: int) -> None:
        """Counts what a request has taken."""
        if self._limit is not None and tokens:
            self._forget()
            self._spent.append((self._clock(), tokens))
            self._total += tokens

    def check(self) -> None:
        """Returns where there is room for a request.

        Raises:
            RateLimited: The limit is reached; it says when there will be room.
        """
        if self._limit is None:
            return
        self._forget()
        over = self._total - self._limit
        if over < 0:
            return
        until_s = self._clock()
        for then_s, tokens in self._spent:
            over -= tokens
            if over < 0:
                until_s = then_s + WINDOW_S
                break
        raise RateLimited(
            f"The model takes {self._limit} tokens a minute here, and they are used up.",
            retry_after_s=max(0.0, until_s - self._clock()),
            instance=self._engine,
        )

    def _forget(self) -> None:
        before_s = self._clock() - WINDOW_S
        while self._spent and self._spent[0][0] <= before_s:
            self._total -= self._spent.popleft()[1]
