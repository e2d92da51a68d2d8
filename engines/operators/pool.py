"""Pool: several engines share the requests, by weight; a session stays where it is at home."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engines.call_requests import Request
from engines.context import Context
from engines.contract import Engine
from engines.errors import PenstockError
from engines.operators.fallback import Fallback, is_misconfigured
from engines.rendezvous import weighted_draw

ASIDE_S = 60.0
"""How long an engine that refuses our key, or does not know its model, is left alone: somebody must mend that first."""


@dataclass(frozen=True, slots=True)
class PoolMember:
    """One engine of a pool.

    Attributes:
        engine: The engine.
        weight: Its share of the requests is its weight over that of all; above 0.
        failover: It gets requests only when nobody else takes them.
    """

    engine: Engine
    weight: float = 1.0
    failover: bool = False


@dataclass(frozen=True, slots=True)
class PutAside:
    """An engine of a pool is left alone for `ASIDE_S`.

    Attributes:
        engine: Its name.
        reason: What it refused with.
    """

    engine: str
    reason: str


class Pool(Fallback):
    """Shares requests among engines.

    The home of a session, or of a request without one, is found by weighted rendezvous hashing: every process finds
    the same, and an engine that goes takes only its own sessions with it. When its home is not ready, a session goes
    to its next best engine, and comes back. Engines for failover come after all others. One that refuses our key, or
    does not know its model, is put aside for a while; reports `PutAside`.

    Args:
        name: Its name.
        members: The engines; at least one.
        clock: Seconds that only grow.
    """

    def __init__(self, name: str, members: Sequence[PoolMember], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name, [member.engine for member in members])
        self._shares = tuple(members)
        self._clock = clock
        self._aside_until_s: dict[str, float] = {}

    def order(self, request: Request, context: Context) -> Sequence[Engine]:
        """The engines in the order in which a request is to try them."""
        key = request.session.id if request.session is not None else context.id
        now_s = self._clock()

        def rank(member: PoolMember) -> tuple[bool, bool, bool, float]:
            name = member.engine.name
            is_aside = self._aside_until_s.get(name, now_s) > now_s
            return is_aside, not member.engine.ready, member.failover, -weighted_draw(key, name, member.weight)

        return [member.engine for member in sorted(self._shares, key=rank)]

    def refused(self, member: Engine, error: PenstockError) -> None:
        """Puts an engine aside that will refuse others, too."""
        if is_misconfigured(error):
            self._aside_until_s[member.name] = self._clock() + ASIDE_S
            self.report(PutAside(member.name, error.message))
