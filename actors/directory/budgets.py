"""What tenants may spend, held over all router replicas.

Each replica holds a part of what a tenant may spend now, and spends it by itself. Nothing is spent that was not handed
out, and what was handed out counts until it is known what became of it: spent, at the moment at which that is heard,
which is never before it happened; handed back; or, of a replica that says nothing any more, spent. So the sum of what
is spent in any 60 seconds never passes the limit, whoever dies when.

All that a replica says of itself is counted from the beginning of its term: what is heard twice, or only the second
time, counts once.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

MINUTE_S = 60.0
TERM_S = 10.0
"""A replica that was not heard of for so long holds nothing any more; it knows that a little earlier by itself."""
_SOON_S = 1.0
"""When to ask again where what lacks is in other replicas' hands."""


def day_of(unix_s: float) -> str:
    """The day of a moment, as UTC has it: 2027-06-30."""
    return datetime.fromtimestamp(unix_s, UTC).date().isoformat()


@dataclass(frozen=True)
class Limits:
    """What a tenant may spend; None: as much as it likes.

    Attributes:
        requests: Requests at a time.
        minute: Tokens in any 60 seconds.
        day: Tokens in a day, as UTC has it.
    """

    requests: int | None = None
    minute: int | None = None
    day: int | None = None

    @cached_property
    def tokens(self) -> int | None:
        """The most tokens that one request can ever get; None: any number."""
        return min((limit for limit in (self.minute, self.day) if limit is not None), default=None)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a replica says of one tenant, in tokens since the beginning of its term, and what it wants.

    Attributes:
        term: A word for the term, which no other has.
        limits: The tenant's, as it knows them.
        spent: What it has spent.
        returned: What it has handed back unspent.
        refunded: What it has spent in the last minute, and was not used after all.
        day: The day that it has, as 2027-06-30.
        refunded_day: What it has spent on that day, and was not used; since the day's beginning, if that was later.
        wants: How many tokens it would like to have besides.
        least: With fewer it could not do anything.
        running: How many requests it has under way.
        waiting: How many more it would like to begin.
        ends: The term is over: it holds nothing, and will not hold anything in this term.
    """

    term: str
    limits: Limits
    spent: int = 0
    returned: int = 0
    refunded: int = 0
    day: str = ""
    refunded_day: int = 0
    wants: int = 0
    least: int = 0
    running: int = 0
    waiting: int = 0
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """What a replica may spend.

    Attributes:
        granted: Tokens since the beginning of its term.
        requests: Requests that it may have under way; None: any number.
        free: Tokens that nobody holds; None: any number.
        free_requests: Requests that nobody holds; None: any number.
        retry_after_s: In how many seconds what it could not have may be there; 0: it has what it wanted.
        reset_s: In how many seconds all of the tenant's tokens of a minute are there again, if it spends no more.
    """

    granted: int
    requests: int | None
    free: int | None
    free_requests: int | None
    retry_after_s: float
    reset_s: float


@dataclass(slots=True)
class _Holding:
    """What the replica of one term holds.

    Attributes:
        until_s: Unix time at which it holds nothing any more, unless it is heard of before.
        granted, spent, returned, refunded: Tokens, since the beginning of the term.
        day, refunded_day: As in the last claim.
        requests: How many it may have under way.
    """

    until_s: float
    granted: int = 0
    spent: int = 0
    returned: int = 0
    refunded: int = 0
    day: str = ""
    refunded_day: int = 0
    requests: int = 0

    @property
    def outstanding(self) -> int:
        """Tokens of which is not known yet what becomes of them."""
        return max(0, self.granted - self.spent - self.returned)


@dataclass(slots=True)
class Account:
    """One tenant's budget.

    Attributes:
        holdings: By the term.
        spent: Tokens, each with the Unix time, in whole seconds, from which on they are a minute old.
        day: The day to which `today` belongs, as 2027-06-30.
        today: Tokens spent on it.
    """

    holdings: dict[str, _Holding] = field(default_factory=dict)
    spent: list[list[int]] = field(default_factory=list)
    day: str = ""
    today: int = 0

    @classmethod
    def loads(cls, data: bytes) -> "Account":
        """The account that `dumps` made this of."""
        known: dict[str, Any] = json.loads(data)
        known["holdings"] = {term: _Holding(**holding) for term, holding in known["holdings"].items()}
        return cls(**known)

    def dumps(self) -> bytes:
        """All of it, as JSON."""
        return json.dumps(asdict(self)).encode()

    def claim(self, claim: Claim, now_s: float) -> Grant | None:
        """Takes what a replica says, and hands out what there is of what it wants.

        Returns:
            None: Its term is not known, or over; it holds nothing, and has to begin another.
        """
        self._expire(now_s)
        holding = self.holdings.get(claim.term)
        if holding is None:
            if claim.spent or claim.returned or claim.refunded or claim.refunded_day:
                return None
            holding = self.holdings[claim.term] = _Holding(0.0)
        holding.until_s = now_s + TERM_S
        self._hear(holding, claim, now_s)
        limits = claim.limits
        free = self._free(limits)
        retry_after_s = 0.0
        if claim.wants and free is not None and free < claim.least:
            retry_after_s = self._retry_after_s(claim.least, limits, now_s)
        elif claim.wants:
            grant = claim.wants if free is None else min(claim.wants, free)
            holding.granted += grant
            free = None if free is None else free - grant
        requests = free_requests = None
        if limits.requests is not None:
            holding.requests = claim.running
            free_requests = limits.requests - sum(one.requests for one in self.holdings.values())
            given = max(0, min(free_requests, claim.waiting))
            holding.requests += given
            free_requests -= given
            # Where one that was cut off has come back there may be too many: who ends makes no place for another then.
            requests = max(0, holding.requests + min(0, free_requests))
            free_requests = max(0, free_requests)
            if claim.waiting and not given:
                retry_after_s = max(retry_after_s, _SOON_S)
        reset_s = max((until_s - now_s for until_s, _ in self.spent), default=0.0)
        if claim.ends:
            del self.holdings[claim.term]
        return Grant(holding.granted, requests, free, free_requests, retry_after_s, reset_s)

    def _hear(self, holding: _Holding, claim: Claim, now_s: float) -> None:
        self._spend(claim.spent - holding.spent, now_s)
        holding.spent, holding.returned = claim.spent, claim.returned
        refund, holding.refunded = claim.refunded - holding.refunded, claim.refunded
        if claim.day != holding.day:
            holding.day, holding.refunded_day = claim.day, 0
        if claim.day == self.day:
            # What was spent yesterday is not to be had again today.
            self.today = max(0, self.today - (claim.refunded_day - holding.refunded_day))
        holding.refunded_day = claim.refunded_day
        # The oldest first: what is left then counts for no shorter than what was spent in truth.
        while refund > 0 and self.spent:
            taken = min(refund, self.spent[0][1])
            refund -= taken
            self.spent[0][1] -= taken
            if not self.spent[0][1]:
                del self.spent[0]

    def _spend(self, tokens: int, now_s: float) -> None:
        if tokens <= 0:
            return
        self.today += tokens
        until_s = math.ceil(now_s + MINUTE_S)
        if self.spent and self.spent[-1][0] >= until_s:
            self.spent[-1][1] += tokens
        else:
            self.spent.append([until_s, tokens])

    def _free(self, limits: Limits) -> int | None:
        outstanding = sum(holding.outstanding for holding in self.holdings.values())
        left = []
        if limits.minute is not None:
            left.append(limits.minute - sum(tokens for _, tokens in self.spent))
        if limits.day is not None:
            left.append(limits.day - self.today)
        return max(0, min(left) - outstanding) if left else None

    def _retry_after_s(self, least: int, limits: Limits, now_s: float) -> float:
        """When so many tokens are free, if nobody spends any more."""
        if limits.day is not None and limits.day - self.today < least:
            now = datetime.fromtimestamp(now_s, UTC)
            tomorrow = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
            return (tomorrow - now).total_seconds()
        lacks = least if limits.minute is None else least - limits.minute + sum(tokens for _, tokens in self.spent)
        for until_s, tokens in self.spent:
            if lacks <= 0:
                break
            lacks -= tokens
            if lacks <= 0:
                return max(_SOON_S, until_s - now_s)
        # Others hold them.
        return _SOON_S

    def _expire(self, now_s: float) -> None:
        for term in [term for term, holding in self.holdings.items() if holding.until_s <= now_s]:
            # It may have spent them up to now.
            self._spend(self.holdings.pop(term).outstanding, now_s)
        self.spent = [entry for entry in self.spent if entry[0] > now_s]
        day = day_of(now_s)
        if day > self.day:
            self.day, self.today = day, 0


class Budgets:
    """The budgets of all tenants.

    Args:
        load: What was saved under a tenant's name; None: nothing.
        save: Keeps an account under its tenant's name, before anybody is told of what it says.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        load: Callable[[str], bytes | None],
        save: Callable[[str, bytes], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._load = load
        self._save = save
        self._clock = clock
        self._now_s = 0.0
        self._accounts: dict[str, Account] = {}

    def claim(self, claims: dict[str, Claim]) -> dict[str, Grant | None]:
        """Takes what a replica says of some tenants; what it may spend, or None where it has to begin another term.

        Blocks while it saves. One call at a time.
        """
        # A clock that was set back makes nothing younger.
        self._now_s = max(self._now_s, self._clock())
        grants = {}
        for tenant, claim in claims.items():
            account = self._accounts.get(tenant)
            if account is None:
                saved = self._load(tenant)
                account = self._accounts[tenant] = Account() if saved is None else Account.loads(saved)
            grant = account.claim(claim, self._now_s)
            self._save(tenant, account.dumps())
            grants[tenant] = grant
        return grants
