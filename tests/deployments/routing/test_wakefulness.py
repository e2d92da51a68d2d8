"""Who sleeps is woken last: the order by itself, in the cost, and in a whole router."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.routing.policies import LeastLoaded
from deployments.routing.prefill_cost import prefill_costs
from deployments.routing.route import Route
from deployments.routing.wakefulness import prefer_awake
from engines.call_requests import TokenizeRequest
from engines.completion import collect
from engines.context import Context
from engines.contract import Load
from engines.requests import GenerateRequest, Session
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from tests.deployments.routing.candidates import REQUEST, Server
from tests.deployments.routing.faulty_fleet import FaultyFleet
from tests.deployments.waiting import until

POLICIES = ("round_robin", "random", "power_of_two", "least_loaded")
ASLEEP = Load(is_asleep=True, wake_s=5.0)


def server(id: str, *, load: int = 0, asleep: bool = False, full: bool = False) -> Server:
    return Server(id, load, is_asleep=asleep, is_full=full, wake_s=5.0 if asleep else 0.0)


def preferred(*candidates: Server) -> str:
    return "".join(candidate.id for candidate in prefer_awake(candidates))


def test_awake_with_room_then_waking_then_asleep_then_full() -> None:
    awake, waking = server("a", load=3), server("w", load=1, asleep=True)
    asleep, full = server("s", asleep=True), server("f", load=9, full=True)
    assert preferred(asleep, full, waking, awake) == "a"
    assert preferred(asleep, full, waking) == "w"
    assert preferred(full, asleep) == "s"
    assert preferred(full, server("g", load=9, asleep=True, full=True)) == "fg"
    # Where nobody sleeps, being full is the policy's matter, as ever.
    assert preferred(full, awake) == "fa"


@given(
    st.lists(
        st.builds(Server, st.text(min_size=1), st.integers(0, 3), is_asleep=st.booleans(), is_full=st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_nobody_is_woken_while_one_that_is_awake_has_room(candidates: Sequence[Server]) -> None:
    chosen = prefer_awake(candidates)
    assert chosen and all(one in candidates for one in chosen)
    if any(not one.is_asleep and not one.is_full for one in candidates):
        assert not any(one.is_asleep for one in chosen)


def test_waking_is_a_cost_in_seconds_that_whoever_wakes_it_pays_twice() -> None:
    awake = Server("a", queued_tokens=95_000)
    asleep, waking = Server("s", wake_s=5.0), Server("w", load=1, wake_s=5.0)
    # At 10,000 tokens a second the queue takes 9.5 s.
    costs = prefill_costs([awake, asleep, waking], [0, 0, 0])
    assert costs == [pytest.approx(9.5), pytest.approx(10.0), pytest.approx(5.0, abs=0.01)]


def test_requests_that_come_together_wake_one() -> None:
    policy, sleepers = LeastLoaded(), [Server(f"s{n}", wake_s=5.0) for n in range(8)]
    for _ in range(50):
        chosen = policy.choose(sleepers, REQUEST)
        assert chosen is not None
        chosen.load += 1
        chosen.queued_tokens += 100
    assert sum(one.load > 0 for one in sleepers) == 1
    # And another for as much work as its waking is worth.
    chosen.queued_tokens = 60_000
    assert policy.choose(sleepers, REQUEST) is not chosen


@pytest.fixture
async def fleet() -> AsyncIterator[FaultyFleet]:
    yield FaultyFleet()


def ask(text: str = "hi", **fields: object) -> GenerateRequest:
    return GenerateRequest.model_validate({"model": "m", "prompt": text, **fields})


async def engine_of(route: Route, request: GenerateRequest) -> str:
    return (await collect(route.generate(request, Context()))).engine


@pytest.mark.parametrize("policy", [*POLICIES, "kv_aware", None])
async def test_a_router_wakes_nobody_as_long_as_one_has_room(fleet: FaultyFleet, policy: str | None) -> None:
    for id in "abc":
        await fleet.add(id)
    route = await fleet.route(policy=policy)
    fleet.egress("a").load = fleet.egress("c").load = ASLEEP
    fleet.egress("b").load = Load(running=7)
    for _ in range(20):
        assert await engine_of(route, ask()) == "b"
    fleet.egress("b").load = Load(running=7, queued=300, queued_tokens=300_000, is_full=True)
    assert await engine_of(route, ask()) in "ac"


@pytest.mark.parametrize("policy", [*POLICIES, "kv_aware", None])
async def test_what_comes_while_one_wakes_goes_there(fleet: FaultyFleet, policy: str | None) -> None:
    for id in "abcd":
        await fleet.add(id, ScriptedEngine(id, script=[Hang()]))
    route = await fleet.route(policy=policy)
    for id in "abcd":
        fleet.egress(id).load = ASLEEP
    asked = [asyncio.create_task(collect(route.generate(ask(), Context()))) for _ in range(20)]
    await until(lambda: sum(fleet.egress(id).in_flight for id in "abcd") == 20)
    assert sorted(fleet.egress(id).in_flight for id in "abcd") == [0, 0, 0, 20]
    for one in asked:
        one.cancel()


async def test_a_session_is_kept_where_it_has_nothing_cached_any_more_only_if_it_must_be(fleet: FaultyFleet) -> None:
    for id in "ab":
        await fleet.add(id)
    route = await fleet.route(policy="round_robin")
    for mode in ("soft", "hard"):
        session = Session(id=mode, mode=mode)
        home = await engine_of(route, ask(session=session))
        other = "b" if home == "a" else "a"
        fleet.egress(home).load, fleet.egress(other).load = ASLEEP, Load()
        assert await engine_of(route, ask(session=session)) == (other if mode == "soft" else home)


async def test_what_needs_no_model_goes_to_whoever_has_its_turn(fleet: FaultyFleet) -> None:
    for id in "ab":
        await fleet.add(id)
    route = await fleet.route(policy="round_robin")
    fleet.egress("a").load = ASLEEP
    asked: list[str] = []
    for id in "ab":
        egress = fleet.egress(id)

        async def call(request: object, context: Context, id: str = id) -> str:
            asked.append(id)
            return "tokens"

        egress.call = call  # type: ignore[method-assign,assignment]
    await route.call(TokenizeRequest(model="m", prompt="x"), Context())
    await route.call(TokenizeRequest(model="m", prompt="x"), Context())
    assert sorted(asked) == ["a", "b"]
