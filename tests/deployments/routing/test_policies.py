import random
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.model_settings import PolicyName
from deployments.routing.placements import Placements
from deployments.routing.policies import Direct, LeastLoaded, PowerOfTwo, Random, RoundRobin
from engines.requests import GenerateRequest, Session
from tests.deployments.routing.candidates import REQUEST, Server, servers

NAMES = get_args(PolicyName)


@pytest.mark.parametrize("name", NAMES)
@given(candidates=servers, picks=st.integers(1, 20))
def test_picks_a_candidate(name: PolicyName, candidates: list[Server], picks: int) -> None:
    policy = Placements("m", name).policy()
    for _ in range(picks):
        assert policy.choose(candidates, REQUEST) in candidates


@pytest.mark.parametrize("name", NAMES)
def test_no_candidates_no_pick(name: PolicyName) -> None:
    assert Placements("m", name).policy().choose([], REQUEST) is None


@given(candidates=servers, rounds=st.integers(1, 5), order=st.randoms())
def test_round_robin_gives_each_its_turn(candidates: list[Server], rounds: int, order: random.Random) -> None:
    policy = RoundRobin()
    picks: Counter[str] = Counter()
    for _ in range(rounds * len(candidates)):
        order.shuffle(candidates)  # the turn depends on the ids, not on how the list happens to lie
        picks[policy.choose(candidates, REQUEST).id] += 1
    assert set(picks.values()) == {rounds}


def test_round_robin_keeps_its_turn_when_instances_leave_and_join() -> None:
    policy = RoundRobin()
    a, b, c, d = (Server(id) for id in "abcd")
    assert [policy.choose(some, REQUEST).id for some in ([a, b, c], [a, c], [a, b, c, d], [a, b])] == list("acda")


def test_random_is_fair() -> None:
    policy = Random(random.Random(1))
    candidates = [Server(id) for id in "abcd"]
    picks = Counter(policy.choose(candidates, REQUEST).id for _ in range(4000))
    assert all(900 < picks[server.id] < 1100 for server in candidates)


@given(candidates=servers)
def test_least_loaded_picks_a_least_loaded(candidates: list[Server]) -> None:
    chosen = LeastLoaded().choose(candidates, REQUEST)
    assert chosen.load == min(server.load for server in candidates)


def test_least_loaded_breaks_ties_at_random() -> None:
    policy = LeastLoaded(random.Random(1))
    candidates = [Server(id) for id in "abcd"]
    assert {policy.choose(candidates, REQUEST).id for _ in range(200)} == set("abcd")


@given(candidates=servers)
def test_power_of_two_never_picks_the_most_loaded(candidates: list[Server]) -> None:
    loads = sorted(server.load for server in candidates)
    chosen = PowerOfTwo().choose(candidates, REQUEST)
    if len(loads) > 1:
        assert chosen.load <= loads[-2]


@given(count=st.integers(1, 12), burst=st.integers(1, 200))
def test_a_burst_spreads_evenly_over_the_least_loaded(count: int, burst: int) -> None:
    policy = LeastLoaded()
    candidates = [Server(str(index)) for index in range(count)]
    for _ in range(burst):
        policy.choose(candidates, REQUEST).load += 1
    loads = [server.load for server in candidates]
    assert max(loads) - min(loads) <= 1


def test_a_burst_spreads_nearly_evenly_with_power_of_two() -> None:
    policy = PowerOfTwo(random.Random(1))
    candidates = [Server(str(index)) for index in range(10)]
    for _ in range(1000):
        policy.choose(candidates, REQUEST).load += 1
    assert max(server.load for server in candidates) <= 105


def test_direct_picks_the_named_one_or_none() -> None:
    candidates = [Server("a"), Server("b")]
    assert Direct().choose(candidates, REQUEST.model_copy(update={"instance": "b"})) is candidates[1]
    assert Direct().choose(candidates, REQUEST.model_copy(update={"instance": "c"})) is None


def test_without_a_policy_the_caches_count_of_those_that_tell_of_them() -> None:
    placements = Placements("m", None)
    silent, telling = [Server("a"), Server("b")], [Server("a", reports_cache=True), Server("b", reports_cache=True)]
    request = GenerateRequest(model="m", prompt="long enough to be worth a chunk " * 100)
    chain = placements.chain(request)
    placements.prefixes.hear_cached("b", 0, 0, dict(zip(chain.prefixes, chain.ends, strict=True)))
    assert {placements.policy().choose(telling, request).id for _ in range(20)} == {"b"}
    assert {placements.policy().choose(silent, request).id for _ in range(20)} == {"a", "b"}


@pytest.mark.parametrize("name", ["kv_aware", "least_loaded"])
def test_a_session_goes_to_one_of_equals_whichever_router_it_comes_to(name: PolicyName) -> None:
    candidates = [Server(id) for id in "abcd"]
    request = GenerateRequest(model="m", prompt="hello", session=Session(id="s"))
    assert len({Placements("m", name).policy().choose(candidates, request).id for _ in range(20)}) == 1
