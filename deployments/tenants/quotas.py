"""What tenants may spend, at one router replica: parts of their budgets, borrowed from the directory.

A request reserves the most that it can cost before it is dispatched, and gives back what it did not need. Most find
what they reserve here; where too little is left, the directory is asked for more, once for all who wait.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from actors.directory.budgets import TERM_S, Budgets, Claim, Grant, Limits, day_of
from deployments.followed_file import Follower
from deployments.tenants.tenant import Tenant
from engines.errors import Forbidden, PenstockError, RateLimited, Unavailable

logger = logging.getLogger(__name__)

BEAT_S = 1.0
"""How often the directory hears what was spent, and gets back what was not."""
_MARGIN_S = 2.0
"""By how much sooner than the directory a replica takes what it holds for lost."""
_REFUND_S = 45.0
"""So long after it was reserved what was not used is tokens of this minute again, wherever the news is meanwhile."""
_SHARE = 32
"""This part of a limit is borrowed at a time, or as much as the last seconds have taken."""
_TRIES = 3
"""Others who wait may take what was borrowed."""
_DRY_S = 0.25
"""A directory that had too little is not asked for as much again for so long, however many come."""

Lender = Callable[[dict[str, Claim]], Awaitable[dict[str, Grant | None]]]
"""Asks the directory. Raises Unavailable where it does not answer."""


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """What is left of one budget.

    Attributes:
        name: `requests` at a time, or `tokens`.
        limit: The budget.
        remaining: What is left of it.
        reset_s: Seconds until all of it is there again; None: as soon as what runs has ended.
    """

    name: Literal["requests", "tokens"]
    limit: int
    remaining: int
    reset_s: float | None = None


class Reservation:
    """What one request has reserved, until it is settled."""

    __slots__ = ("_account", "_at_s", "_day", "_tokens")

    def __init__(self, account: "_Account", tokens: int) -> None:
        self._account: _Account | None = account
        self._tokens = tokens
        self._at_s = account.clock()
        # Of the last second: around midnight it may be yesterday's, and what comes back is not had again then.
        self._day = account.day

    def lower(self, tokens: int) -> None:
        """The request will use so many fewer, for certain."""
        if self._account is not None and tokens > 0:
            self._tokens -= tokens
            self._account.settle(tokens, self._at_s, self._day)

    def settle(self, used: int) -> None:
        """The request is over and has used so many tokens. Idempotent: the first time counts."""
        account, self._account = self._account, None
        if account is not None:
            account.running -= 1
            account.settle(self._tokens - used, self._at_s, self._day)


@dataclass(slots=True)
class _Account:
    """What the replica holds of one tenant's budget; counts are since the beginning of its term.

    Attributes:
        running: Requests under way.
        requests: How many it may have.
        day: To which `refunded_day` belongs.
        least: What each request that waits needs, in tokens.
        refunds: What was not used and was not told yet: when it was reserved, on which day, and how much.
        recent: What the last beats have spent.
        valid_until_s: When it holds nothing any more.
        dry: Until when, and from how many tokens on, there is nothing to be had.
        lacks_requests: Whether that is because there are too many requests.
    """

    limits: Limits
    clock: Callable[[], float]
    today: Callable[[], str]
    term: str = ""
    granted: int = 0
    spent: int = 0
    returned: int = 0
    refunded: int = 0
    refunded_day: int = 0
    day: str = ""
    running: int = 0
    requests: int = 0
    least: list[int] = field(default_factory=list)
    recent: int = 0
    spent_before: int = 0
    refunds: deque[tuple[float, str, int]] = field(default_factory=deque)
    valid_until_s: float = 0.0
    last: Grant | None = None
    dry: tuple[float, int] = (0.0, 0)
    lacks_requests: bool = False

    @property
    def left(self) -> int:
        """Tokens that it can spend by itself."""
        return self.granted - self.spent - self.returned

    @property
    def is_idle(self) -> bool:
        """Whether the directory need not hear of it."""
        return not self.term

    def begin_term(self) -> None:
        """Begins to count anew, with nothing."""
        self.term = uuid.uuid4().hex
        self.granted = self.spent = self.returned = self.refunded = self.refunded_day = self.spent_before = 0
        self.requests = 0
        self.refunds.clear()

    def take(self, tokens: int) -> bool:
        """Reserves so many tokens and a place among the requests, if it has both."""
        if not self.term or self.clock() >= self.valid_until_s:
            return False
        if self.limits.requests is not None and self.running >= self.requests:
            return False
        if self.limits.tokens is not None:
            if self.left < tokens:
                return False
            self.spent += tokens
        self.running += 1
        return True

    def settle(self, unused: int, reserved_s: float, day: str) -> None:
        """So much of what was reserved then was not used; less than nothing: it was too little."""
        if self.limits.tokens is None or not self.term:
            return
        if unused < 0:
            self.spent -= unused
        else:
            self.refunds.append((reserved_s, day, unused))

    def claim(self) -> Claim:
        """What the directory is told now."""
        now_s = self.clock()
        if not self.term or now_s >= self.valid_until_s > 0.0:
            self.begin_term()
        if self.day != (today := self.today()):
            self.day, self.refunded_day = today, 0
        while self.refunds:
            reserved_s, day, unused = self.refunds.popleft()
            if now_s - reserved_s < _REFUND_S:
                self.refunded += unused
            if day == today:
                self.refunded_day += unused
        wants = 0
        if self.limits.tokens is not None:
            used = self.spent - self.spent_before
            self.spent_before = self.spent
            self.recent = max(used, self.recent // 2)
            needs = sum(self.least)
            if needs > self.left:
                wants = needs - self.left + max(self.limits.tokens // _SHARE, self.recent)
            elif not needs:
                self.returned += max(0, self.left - self.recent)
        # What is free of its requests is given back; it takes no more before it hears how many it has.
        self.requests = self.running
        return Claim(
            self.term,
            self.limits,
            self.spent,
            self.returned,
            self.refunded,
            self.day,
            self.refunded_day,
            wants,
            max(0, min(self.least, default=0) - self.left),
            self.running,
            len(self.least),
            ends=not (self.left or self.running or self.least),
        )

    def hear(self, claim: Claim, grant: Grant | None, asked_s: float) -> None:
        """Takes what the directory says to that."""
        if claim.term != self.term:
            return
        self.last = grant or self.last
        self.valid_until_s = asked_s + TERM_S - _MARGIN_S
        if grant is None or claim.ends:
            self.begin_term()
            if claim.ends and not self.least:
                self.term = ""
            return
        self.granted = grant.granted
        self.requests = claim.running if grant.requests is None else grant.requests
        if grant.retry_after_s:
            self.lacks_requests = self.limits.requests is not None and self.running >= self.requests
            self.dry = (self.clock() + _DRY_S, 0 if self.lacks_requests else claim.least + self.left)


class Quotas:
    """The budgets of tenants, at one replica.

    Args:
        lender: The directory.
        clock: Monotonic time in seconds.
        today: The day, as UTC has it.

    Attributes:
        is_reached: Whether the directory answered the last time.
    """

    def __init__(
        self,
        lender: Lender,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], str] = lambda: day_of(time.time()),
    ) -> None:
        self.is_reached = True
        self._lender = lender
        self._clock = clock
        self._today = today
        self._accounts: dict[str, _Account] = {}
        self._asking: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._follower: Follower | None = None

    @classmethod
    def alone(cls) -> "Quotas":
        """Those of a process that serves by itself."""
        kept: dict[str, bytes] = {}
        budgets = Budgets(kept.get, kept.__setitem__)

        async def lend(claims: dict[str, Claim]) -> dict[str, Grant | None]:
            return budgets.claim(claims)

        return cls(lend)

    async def start(self) -> None:
        """Begins to tell the directory what is spent."""
        self._follower = Follower(self._beat, BEAT_S)

    async def stop(self) -> None:
        """Tells it for the last time."""
        if self._follower is not None:
            await self._follower.stop()
            self._follower = None
            await self._beat()
        if self._asking is not None:
            await asyncio.wait([self._asking])

    async def reserve(self, tenant: Tenant, tokens: int) -> Reservation:
        """Reserves tokens for a request, and a place among those under way; settle it.

        Args:
            tenant: Whose budget.
            tokens: The most that the request can cost.

        Raises:
            RateLimited: There is not so much left; says when there is.
            Forbidden: There never is so much.
        """
        limits = tenant.limits
        account = self._accounts.get(tenant.name)
        if account is None:
            account = self._accounts[tenant.name] = _Account(limits, self._clock, self._today)
        account.limits = limits
        if limits.tokens is not None and tokens > limits.tokens:
            raise Forbidden(
                f"max_tokens: the request may take {tokens} tokens, and the API key has {limits.tokens} in all. Ask "
                "for fewer: lower max_tokens or n, or send a shorter prompt.",
                param="sampling.max_tokens",
            )
        tokens = max(1, tokens)
        for _ in range(_TRIES):
            if account.take(tokens):
                return Reservation(account, tokens)
            until_s, least = account.dry
            if tokens >= least and self._clock() < until_s:
                break
            account.least.append(tokens)
            try:
                await self._ask()
            finally:
                account.least.remove(tokens)
            if not self.is_reached:
                break
        else:
            if account.take(tokens):
                return Reservation(account, tokens)
        raise self._refusal(account)

    def left(self, tenant: Tenant) -> list[BudgetLeft]:
        """What is left of the tenant's budgets, as far as this replica knows."""
        limits, account = tenant.limits, self._accounts.get(tenant.name)
        grant = account.last if account is not None else None
        made = []
        if limits.requests is not None:
            free = limits.requests if grant is None or grant.free_requests is None else grant.free_requests
            if account is not None:
                free = min(limits.requests, free + account.requests) - account.running
            made.append(BudgetLeft("requests", limits.requests, max(0, free)))
        if limits.tokens is not None:
            left = limits.tokens if grant is None or grant.free is None else grant.free
            if account is not None and account.term:
                left += account.left
            reset_s = 0.0 if grant is None else grant.reset_s
            made.append(BudgetLeft("tokens", limits.tokens, max(0, left), reset_s))
        return made

    def headers(self, tenant: Tenant) -> dict[str, str]:
        """What answers tell of the tenant's budgets, by the names that OpenAI's API has for it."""
        made: dict[str, str] = {}
        for budget in self.left(tenant):
            made[f"x-ratelimit-limit-{budget.name}"] = str(budget.limit)
            made[f"x-ratelimit-remaining-{budget.name}"] = str(budget.remaining)
            if budget.reset_s is not None:
                made[f"x-ratelimit-reset-{budget.name}"] = f"{budget.reset_s:.0f}s"
        return made

    def _refusal(self, account: _Account) -> PenstockError:
        if not self.is_reached:
            message = "What is left of the API key's quota cannot be found out for now."
            return RateLimited(message, retry_after_s=BEAT_S)
        limits, grant = account.limits, account.last
        after_s = grant.retry_after_s if grant is not None and grant.retry_after_s else BEAT_S
        if account.lacks_requests:
            return RateLimited(f"The API key may have {limits.requests} requests at a time.", retry_after_s=after_s)
        of = "a minute" if limits.minute is not None else "a day"
        if limits.day is not None and after_s > 2 * _REFUND_S:
            of = "a day"
        most = limits.day if of == "a day" else limits.minute
        return RateLimited(f"The API key may use {most} tokens {of}, and they are used up.", retry_after_s=after_s)

    async def _beat(self) -> None:
        if not all(account.is_idle for account in self._accounts.values()):
            await self._ask()

    async def _ask(self) -> None:
        """Returns when the directory has answered, or not, to what is known now."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        mine = self._next
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask_all())
        await asyncio.shield(mine)

    async def _ask_all(self) -> None:
        try:
            while self._next is not None:
                answered, self._next = self._next, None
                try:
                    await self._ask_once()
                finally:
                    answered.set_result(None)
        finally:
            self._asking = None

    async def _ask_once(self) -> None:
        accounts = {name: one for name, one in self._accounts.items() if one.term or one.least or one.running}
        claims = {name: account.claim() for name, account in accounts.items()}
        asked_s = self._clock()
        try:
            grants = await self._lender(claims)
        except Unavailable as error:
            if self.is_reached:
                logger.warning("Quotas are held by what is here already: %s", error.message)
            self.is_reached = False
            return
        self.is_reached = True
        for name, claim in claims.items():
            accounts[name].hear(claim, grants[name], asked_s)
