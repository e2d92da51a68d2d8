"""The sessions of one instance: what every router replica should know of them, whoever sent them here.

A router replica binds a session by itself when one of its requests is taken. The others hear of it from the instance,
and one that opens its channel later hears of all of them: so a session stays where its state is through another router
replica, and through instances that came up meanwhile and would win it by hash.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

TELL_AGAIN_S = 10.0
"""A session that goes on is told again after so long: the routers forget those that are idle."""
MAX_SESSIONS = 20_000
"""Sessions that are remembered; beyond it the one told longest ago is forgotten."""


class Sessions:
    """Which sessions the instance has served, and when that was last told.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # In the order of the telling.
        self._told_s: OrderedDict[str, float] = OrderedDict()

    def use(self, session: str) -> bool:
        """Notes a request of the session; whether the routers are to be told."""
        now_s = self._clock()
        told_s = self._told_s.get(session)
        if told_s is not None and now_s - told_s < TELL_AGAIN_S:
            return False
        self._told_s[session] = now_s
        self._told_s.move_to_end(session)
        if len(self._told_s) > MAX_SESSIONS:
            self._told_s.popitem(last=False)
        return True

    def all(self) -> list[tuple[str, float]]:
        """Every session that is remembered, and for how many seconds it has been idle, `TELL_AGAIN_S` more or less."""
        now_s = self._clock()
        return [(session, now_s - told_s) for session, told_s in self._told_s.items()]
