"""Budgets over several router replicas: never overspent, whoever dies when, and all there for who may have it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.directory.budgets import MINUTE_S, TERM_S, Budgets, Claim, Grant, day_of
from deployments.tenants.quotas import Quotas, Reservation
from deployments.tenants.tenant import Tenant
from engines.errors import Forbidden, RateLimited, Unavailable

DAY_S = 86_400.0
NOON_S = 20_000 * DAY_S + DAY_S / 2


class World:
    """A clock, what outlives the directory, and replicas that may not reach it."""

    def __init__(self, begins_s: float = NOON_S) -> None:
        self.now_s = begins_s
        self.kept: dict[str, bytes] = {}
        self.claims = 0
        self.faults: list[str] = []
        self.replicas: list[Quotas] = []
        self.restart_directory()

    def restart_directory(self) -> None:
        self.budgets = Budgets(self.kept.get, self.kept.__setitem__, lambda: self.now_s)

    def replica(self) -> Quotas:
        made = Quotas(self._lend, lambda: self.now_s, lambda: day_of(self.now_s))
        self.replicas.append(made)
        return made

    async def _lend(self, claims: dict[str, Claim]) -> dict[str, Grant | None]:
        self.claims += 1
        await asyncio.sleep(0)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "question lost":
            raise Unavailable("No answer.")
        answer = self.budgets.claim(claims)
        if fault == "answer lost":
            raise Unavailable("No answer.")
        return answer

    async def beat(self, beats: int = 1) -> None:
        for _ in range(beats):
            self.now_s += 1.0
            for replica in self.replicas:
                await replica._ask()


async def refused(quotas: Quotas, tenant: Tenant, tokens: int) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await quotas.reserve(tenant, tokens)
    return caught.value


async def test_a_minutes_tokens_are_spent_once_and_are_there_again_a_minute_later() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=1000)
    quotas = world.replica()
    for _ in range(10):
        (await quotas.reserve(tenant, 100)).settle(100)
    error = await refused(quotas, tenant, 100)
    assert (error.status, error.message) == (429, "The API key may use 1000 tokens a minute, and they are used up.")
    assert error.retry_after_s is not None
    assert 58 <= error.retry_after_s <= 62
    world.now_s += error.retry_after_s
    await quotas.reserve(tenant, 100)


async def test_what_was_not_used_is_there_again_at_once_for_every_replica() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=1000)
    first, second = world.replica(), world.replica()
    reservation = await first.reserve(tenant, 1000)
    await refused(second, tenant, 100)
    reservation.settle(100)
    reservation.settle(0)
    await world.beat()
    await second.reserve(tenant, 900)
    await refused(first, tenant, 1)


async def test_what_a_replica_does_not_need_goes_to_another() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=6400)
    first, second = world.replica(), world.replica()
    (await first.reserve(tenant, 1)).settle(1)
    await world.beat(3)
    await second.reserve(tenant, 6399)


async def test_most_requests_ask_nobody() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=1_000_000, max_requests=1000)
    quotas = world.replica()
    running = [await quotas.reserve(tenant, 10) for _ in range(4)]
    await world.beat(2)
    world.claims = 0
    for _ in range(500):
        running.pop(0).settle(5)
        running.append(await quotas.reserve(tenant, 10))
    assert world.claims <= 10


async def test_requests_at_a_time_hold_over_all_replicas() -> None:
    world, tenant = World(), Tenant(name="t", max_requests=3)
    first, second = world.replica(), world.replica()
    running = [await first.reserve(tenant, 1), await second.reserve(tenant, 1), await second.reserve(tenant, 1)]
    error = await refused(first, tenant, 1)
    assert error.message == "The API key may have 3 requests at a time."
    running[1].settle(1)
    await world.beat()
    await first.reserve(tenant, 1)


async def test_a_day_ends_at_midnight_and_its_tokens_count_until_then() -> None:
    world, tenant = World(NOON_S + DAY_S / 2 - 200), Tenant(name="t", tokens_per_day=1000)
    quotas = world.replica()
    (await quotas.reserve(tenant, 800)).settle(700)
    await world.beat(100)
    error = await refused(quotas, tenant, 400)
    assert error.message == "The API key may use 1000 tokens a day, and they are used up."
    assert error.retry_after_s == pytest.approx(100)
    late = await quotas.reserve(tenant, 300)
    await world.beat(50)
    late.settle(100)
    await world.beat()
    # Also what was not used of what was reserved more than a minute ago.
    await quotas.reserve(tenant, 200)
    world.now_s += 60
    await quotas.reserve(tenant, 1000)


async def test_what_was_reserved_yesterday_is_not_to_be_had_again_today() -> None:
    world, tenant = World(NOON_S + DAY_S / 2 - 5), Tenant(name="t", tokens_per_day=1000)
    quotas = world.replica()
    yesterdays = await quotas.reserve(tenant, 1000)
    await world.beat(6)
    todays = await quotas.reserve(tenant, 900)
    yesterdays.settle(0)
    await world.beat(2)
    await refused(quotas, tenant, 200)
    todays.settle(0)
    await world.beat(2)
    await quotas.reserve(tenant, 1000)


async def test_more_than_there_ever_is_is_refused_with_what_to_do() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=1000, tokens_per_day=900)
    with pytest.raises(Forbidden) as caught:
        await world.replica().reserve(tenant, 901)
    assert (caught.value.param, world.claims) == ("sampling.max_tokens", 0)
    assert caught.value.message.startswith(
        "max_tokens: the request may take 901 tokens, and the API key has 900 in all. Ask for fewer: lower max_tokens"
    )


async def test_without_the_directory_what_is_here_serves_on_and_then_nothing_does() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=64_000)
    quotas = world.replica()
    await quotas.reserve(tenant, 100)
    world.faults = ["question lost"] * 100
    await quotas.reserve(tenant, 100)
    assert quotas.is_reached
    error = await refused(quotas, tenant, 60_000)
    assert (error.retry_after_s, quotas.is_reached) == (1.0, False)
    assert error.message == "What is left of the API key's quota cannot be found out for now."
    world.now_s += TERM_S
    await refused(quotas, tenant, 1)
    world.faults = []
    await quotas.reserve(tenant, 100)
    assert quotas.is_reached


async def test_a_new_directory_knows_what_the_old_one_gave_away() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=1000, tokens_per_day=5000, max_requests=2)
    first, second = world.replica(), world.replica()
    await first.reserve(tenant, 600)
    world.restart_directory()
    await refused(second, tenant, 500)
    await second.reserve(tenant, 300)
    await refused(second, tenant, 1)


async def test_what_a_dead_replica_held_comes_back_when_it_can_spend_no_more() -> None:
    world, tenant = World(), Tenant(name="t", max_requests=2)
    dead, alive = world.replica(), world.replica()
    for _ in range(2):
        await dead.reserve(tenant, 1)
    world.replicas.remove(dead)
    await refused(alive, tenant, 1)
    world.now_s += TERM_S
    await alive.reserve(tenant, 1)


async def test_what_a_dead_replica_may_have_spent_counts() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=3200)
    dead, alive = world.replica(), world.replica()
    await dead.reserve(tenant, 100)
    for _ in range(10):
        await dead.reserve(tenant, 10)
    world.replicas.remove(dead)
    world.now_s += TERM_S
    await alive.reserve(tenant, 3000)
    await refused(alive, tenant, 1)


async def test_a_replica_begins_nothing_while_it_asks_that_it_has_given_back() -> None:
    world, tenant = World(), Tenant(name="t", max_requests=4, tokens_per_minute=3200)
    first, second = world.replica(), world.replica()
    for one in [await first.reserve(tenant, 1) for _ in range(4)]:
        one.settle(1)
    account, lend = first._accounts["t"], first._lender

    async def lend_slowly(claims: dict[str, Claim]) -> dict[str, Grant | None]:
        assert not account.take(1)
        grants = await lend(claims)
        assert not account.take(1)
        return grants

    first._lender = lend_slowly
    await first._ask()
    for _ in range(4):
        await second.reserve(tenant, 1)
    await refused(first, tenant, 1)


async def test_what_was_not_used_an_hour_ago_is_no_part_of_this_minute() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=1000, tokens_per_day=10_000)
    quotas = world.replica()
    old = await quotas.reserve(tenant, 1000)
    await world.beat(65)
    await quotas.reserve(tenant, 1000)
    old.settle(0)
    await world.beat()
    await refused(quotas, tenant, 1)


async def test_a_replica_that_was_cut_off_does_not_go_on_with_places_that_others_have_now() -> None:
    world, tenant = World(), Tenant(name="t", max_requests=2)
    first, second = world.replica(), world.replica()
    old = await first.reserve(tenant, 1)
    world.now_s += TERM_S
    for _ in range(2):
        await second.reserve(tenant, 1)
    await refused(first, tenant, 1)
    old.settle(1)
    await refused(first, tenant, 1)


async def test_who_cannot_pay_does_not_keep_the_directory_busy() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=100)
    quotas = world.replica()
    await quotas.reserve(tenant, 100)
    world.claims = 0
    for _ in range(200):
        await refused(quotas, tenant, 50)
    assert world.claims <= 2


async def test_five_hundred_at_once_over_four_replicas() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=10_000)
    replicas = [world.replica() for _ in range(4)]
    made = await asyncio.gather(
        *(replicas[number % 4].reserve(tenant, 100) for number in range(500)), return_exceptions=True
    )
    got = sum(isinstance(one, Reservation) for one in made)
    assert all(isinstance(one, (Reservation, RateLimited)) for one in made)
    # What is borrowed besides may lie elsewhere for a moment.
    assert 85 <= got <= 100
    await world.beat(3)
    for _ in range(100 - got):
        await replicas[0].reserve(tenant, 100)
    await refused(replicas[1], tenant, 100)


async def test_answers_tell_what_is_left() -> None:
    world, tenant = World(), Tenant(name="t", tokens_per_minute=1000, max_requests=4)
    quotas = world.replica()
    assert quotas.headers(Tenant(name="free")) == {}
    assert quotas.headers(tenant)["x-ratelimit-remaining-tokens"] == "1000"
    await quotas.reserve(tenant, 300)
    assert quotas.headers(tenant) == {
        "x-ratelimit-limit-requests": "4",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "700",
        "x-ratelimit-reset-tokens": "0s",
    }
    await world.beat()
    assert quotas.headers(tenant)["x-ratelimit-reset-tokens"] in ("60s", "61s")


@dataclass
class Spent:
    """One reservation that was made."""

    at_s: float
    tokens: int
    reservation: Reservation
    replica: int
    is_over: bool = False
    is_forgotten: bool = False


@dataclass
class Ledger:
    """What was spent in truth."""

    spent: list[Spent] = field(default_factory=list)

    def minute(self, now_s: float) -> int:
        return sum(one.tokens for one in self.spent if one.at_s > now_s - MINUTE_S)

    def today(self, now_s: float) -> int:
        return sum(one.tokens for one in self.spent if one.at_s // DAY_S == now_s // DAY_S)

    def running(self, dead: set[int], cut_off: set[int]) -> int:
        """Requests under way, but for those that replicas had begun before they were cut off."""
        for one in self.spent:
            one.is_forgotten |= one.replica in cut_off
        return sum(not (one.is_over or one.is_forgotten or one.replica in dead) for one in self.spent)


MINUTE, DAY, AT_A_TIME = 1000, 3000, 4
events = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 3), st.integers(1, 400)),
        st.tuples(st.just("settle"), st.integers(0, 50), st.integers(0, 100)),
        st.tuples(st.just("beat"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 25), st.just(0)),
        st.tuples(st.just("fault"), st.sampled_from([0, 1]), st.integers(1, 3)),
        st.tuples(st.just("kill"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
        st.tuples(st.just("spree"), st.integers(0, 3), st.sampled_from([30, 100])),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(events)
def test_nothing_is_overspent_whatever_happens(events: Sequence[tuple[str, int, int]]) -> None:
    asyncio.run(_never_overspent(events))


async def _never_overspent(events: Sequence[tuple[str, int, int]]) -> None:
    world = World(NOON_S + DAY_S / 2 - 100)
    tenant = Tenant(name="t", tokens_per_minute=MINUTE, tokens_per_day=DAY, max_requests=AT_A_TIME)
    replicas = [world.replica() for _ in range(4)]
    born = list(range(4))
    dead: set[int] = set()
    ledger = Ledger()

    async def reserve(which: int, tokens: int) -> bool:
        try:
            reservation = await replicas[which].reserve(tenant, tokens)
        except RateLimited:
            return False
        ledger.spent.append(Spent(world.now_s, tokens, reservation, born[which]))
        return True

    for what, which, how_much in [*events, ("wait", 1, 0), ("spree", 0, 30)]:
        if what == "reserve":
            await reserve(which, how_much)
        elif what == "spree":
            # Everybody takes all there is, one request after another, and uses all of it.
            for turn in range(which, which + 4):
                while await reserve(turn % 4, how_much):
                    if turn % 2:
                        ledger.spent[-1].is_over = True
                        ledger.spent[-1].reservation.settle(how_much)
        elif what == "settle":
            open_ = [one for one in ledger.spent if not one.is_over and one.replica not in dead]
            if open_:
                one = open_[which % len(open_)]
                one.is_over = True
                one.tokens = one.tokens * how_much // 100
                one.reservation.settle(one.tokens)
        elif what == "beat":
            await replicas[which]._ask()
        elif what == "wait":
            world.now_s += which
        elif what == "fault":
            world.faults += ["question lost" if which else "answer lost"] * how_much
        elif what == "kill":
            dead.add(born[which])
            born[which] = max(born) + 1
            world.replicas.remove(replicas[which])
            replicas[which] = world.replica()
        else:
            world.restart_directory()
        assert ledger.minute(world.now_s) <= MINUTE
        assert ledger.today(world.now_s) <= DAY
        accounts = [(one, replica._accounts.get("t")) for one, replica in zip(born, replicas, strict=True)]
        cut_off = {one for one, account in accounts if account is not None and account.valid_until_s <= world.now_s}
        assert ledger.running(dead, cut_off) <= AT_A_TIME
