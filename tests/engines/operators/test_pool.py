"""Requests are shared by weight, and a session has a home that it comes back to."""

from collections import Counter

import pytest

from engines.completion import collect
from engines.context import Context
from engines.errors import InvalidRequest, ModelNotFound, NoInstance, PenstockError, ProviderRefused, Unauthorized
from engines.operators.pool import ASIDE_S, Pool, PoolMember, PutAside
from engines.rendezvous import weighted_draw
from engines.requests import GenerateRequest, Session
from tests.engines.operators.conftest import Clock, playing


async def who(pool: Pool, session: str | None = None, id: str | None = None) -> str:
    named = Session(id=session) if session is not None else None
    request = GenerateRequest(model="m", prompt="hi", session=named)
    return (await collect(pool.generate(request, Context(id)))).engine


async def test_each_gets_its_weights_share_and_failover_nothing() -> None:
    a, b, c = [await playing(name, ["hi"]) for name in "abc"]
    pool = Pool("p", [PoolMember(a, 9), PoolMember(b, 1), PoolMember(c, 100, failover=True)])
    counts = Counter([await who(pool, id=f"request-{number}") for number in range(500)])
    assert set(counts) == {"a", "b"} and 425 <= counts["a"] <= 475


def test_draws_by_weight_are_shares() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    keys = [f"key-{number}" for number in range(8000)]
    wins = Counter(max(weights, key=lambda name, key=key: weighted_draw(key, name, weights[name])) for key in keys)  # type: ignore[misc]
    assert {name: pytest.approx(count / 8000, abs=0.02) for name, count in wins.items()} == {
        name: weight / 8 for name, weight in weights.items()
    }


async def test_a_session_has_one_home_and_comes_back_to_it() -> None:
    engines = {name: await playing(name, ["hi"]) for name in "abc"}
    pool = Pool("p", [PoolMember(engine) for engine in engines.values()])
    homes = {session: await who(pool, session) for session in map(str, range(30))}
    assert set(homes.values()) == set("abc")
    assert {session: await who(pool, session) for session in homes} == homes
    await engines["a"].stop()
    moved = {session: await who(pool, session) for session in homes}
    assert all(moved[session] == home for session, home in homes.items() if home != "a")
    await engines["a"].start()
    assert {session: await who(pool, session) for session in homes} == homes


async def test_failover_answers_when_nobody_else_does() -> None:
    a, b = await playing("a", [NoInstance("none")]), await playing("b", ["hi"])
    pool = Pool("p", [PoolMember(b, failover=True), PoolMember(a)])
    assert (await who(pool), len(a.requests)) == ("b", 1)


@pytest.mark.parametrize(
    "error",
    [ProviderRefused("our key", reason="unauthorized"), Unauthorized("our key"), ModelNotFound("gpt", ())],
)
async def test_an_engine_that_refuses_our_key_is_put_aside_and_reported(error: PenstockError, clock: Clock) -> None:
    a, b = await playing("a", [error], ["hi"]), await playing("b", ["hi"])
    pool = Pool("p", [PoolMember(a, 1e9), PoolMember(b)], clock)
    reports: list[PutAside] = []
    pool.report = reports.append
    assert [await who(pool) for _ in range(5)] == ["b"] * 5
    assert (len(a.requests), reports) == (1, [PutAside("a", error.message)])
    clock.now_s += ASIDE_S
    assert await who(pool) == "a"


async def test_a_request_that_is_wrong_puts_nobody_aside() -> None:
    a, b = await playing("a", [InvalidRequest("no")]), await playing("b", ["hi"])
    pool = Pool("p", [PoolMember(a, 1e9), PoolMember(b)])
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            await who(pool)
    assert len(a.requests) == 2 and not b.requests
