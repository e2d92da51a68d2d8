"""Tenants at the gate: they take turns by what they cost, and one that asks much keeps nobody else out."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.admission import Gate, Ticket
from actors.settings import AdmissionSettings
from actors.shares import LATELY_S, OUTPUT_COST, cost_of
from engines.errors import PenstockError, QueueFull
from engines.events import Usage
from engines.requests import TenantShare
from tests.clock import Clock

A, B, C = (TenantShare(name=name) for name in "abc")


def gate(max_running: int = 1, max_queued: int = 500) -> Gate:
    return Gate(AdmissionSettings(max_running=max_running, max_queued=max_queued))


class Crowd:
    """Requests at a gate, and what becomes of them."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.running: list[tuple[str, Ticket]] = []
        self.admitted: list[str] = []
        self.refused: list[str] = []
        self._tickets: dict[int, Ticket] = {}

    def comes(self, tenant: TenantShare | None, *, cost: float = 1.0, priority: int = 0, weight: int = 1) -> None:
        number, name = len(self._tickets), "" if tenant is None else tenant.name
        box: list[Ticket] = []

        def admit() -> None:
            self.admitted.append(name)
            if box:
                self.running.append((name, box[0]))

        def evict(error: PenstockError) -> None:
            assert isinstance(error, QueueFull)
            self.refused.append(name)

        try:
            ticket = self.gate.enter(priority, admit, evict, weight=weight, tenant=tenant, cost=cost)
        except QueueFull:
            self.refused.append(name)
            return
        box.append(ticket)
        self._tickets[number] = ticket
        if not ticket.is_waiting:
            self.running.append((name, ticket))

    def serve(self, turns: int, cost_of_one: Callable[[str], float] = lambda _: 1.0) -> list[str]:
        """Ends what runs, one by one, each at its cost; the tenants that were let in for it."""
        before = len(self.admitted)
        for _ in range(turns):
            name, ticket = self.running.pop(0)
            ticket.charge(cost_of_one(name), exactly=True)
            ticket.leave()
        return self.admitted[before:]


def test_who_has_waited_long_in_numbers_goes_in_turns_with_one_that_comes_late() -> None:
    crowd = Crowd(gate())
    for _ in range(50):
        crowd.comes(A)
    for _ in range(3):
        crowd.comes(B)
    assert crowd.serve(6).count("b") == 3


def test_who_costs_three_times_as_much_is_let_in_a_third_as_often() -> None:
    crowd = Crowd(gate())
    for _ in range(100):
        crowd.comes(A)
        crowd.comes(B)
    let_in = Counter(crowd.serve(80, {"a": 3.0, "b": 1.0}.__getitem__))
    assert let_in["a"] * 3 == pytest.approx(let_in["b"], abs=4)


def test_a_tenant_of_twice_the_weight_has_twice_the_share() -> None:
    heavy = TenantShare(name="heavy", weight=2.0)
    crowd = Crowd(gate())
    for _ in range(100):
        crowd.comes(heavy)
        crowd.comes(B)
    let_in = Counter(crowd.serve(90))
    assert let_in["heavy"] == pytest.approx(2 * let_in["b"], abs=3)


def test_having_been_idle_is_no_credit() -> None:
    crowd = Crowd(gate())
    for _ in range(60):
        crowd.comes(A)
    crowd.serve(40)
    for _ in range(20):
        crowd.comes(B)
    assert Counter(crowd.serve(10)) == {"a": 5, "b": 5}


def test_what_one_was_served_while_nobody_waited_is_no_debt() -> None:
    crowd = Crowd(gate())
    for _ in range(40):
        crowd.comes(A)
        crowd.serve(1)
    for _ in range(10):
        crowd.comes(A)
        crowd.comes(B)
    assert Counter(crowd.serve(10)) == {"a": 5, "b": 5}


def test_one_tenant_has_an_idle_gate_to_itself() -> None:
    crowd = Crowd(gate(max_running=8, max_queued=0))
    for _ in range(8):
        crowd.comes(A)
    assert (crowd.admitted, crowd.refused) == (["a"] * 8, [])


def test_a_few_places_are_left_to_others_that_come_and_to_nobody_else() -> None:
    clock = Clock()
    mine = Gate(AdmissionSettings(max_running=32), clock)
    crowd = Crowd(mine)
    for _ in range(100):
        crowd.comes(A)
    assert mine.running == 32
    # Those that began together end together; meanwhile another one has been here.
    crowd.comes(B)
    crowd.serve(16)
    assert (mine.running, crowd.admitted.count("b")) == (30, 1)
    for _ in range(3):
        crowd.comes(B)
    assert crowd.admitted[-2:] == ["b", "b"] and mine.running == 32
    crowd.serve(1)
    assert (mine.running, crowd.admitted[-1]) == (32, "b")
    # It does not come again, and what was kept for it is for whoever wants it.
    clock.now_s += LATELY_S + 1
    crowd.serve(2)
    mine.expire()
    assert mine.running == 32


def test_what_goes_on_may_have_the_last_places() -> None:
    mine = gate(max_running=32)
    mine.enter(0, lambda: None, tenant=B).leave()
    for _ in range(40):
        mine.enter(0, lambda: None, tenant=A)
    assert mine.running == 30
    for _ in range(2):
        mine.enter(0, lambda: None, tenant=A, goes_on=True)
    assert mine.running == 32


def test_who_has_less_than_its_part_may_have_the_last_place() -> None:
    crowd = Crowd(gate(max_running=32))
    for _ in range(10):
        crowd.comes(A)
        crowd.comes(C)
    for _ in range(14):
        crowd.comes(B)
    # Three of them: ten places are the part of each.
    assert Counter(crowd.admitted) == {"a": 10, "c": 10, "b": 10}
    for tenant in (A, C):
        crowd.comes(tenant)
    assert crowd.gate.running == 30
    crowd.comes(TenantShare(name="d"))
    assert crowd.gate.running == 31


def test_priorities_are_strict_whoever_has_had_more() -> None:
    crowd = Crowd(gate())
    for _ in range(5):
        crowd.comes(A, priority=-1)
        crowd.comes(B)
    assert crowd.serve(5) == ["a", "a", "a", "a", "b"]


def test_a_full_queue_turns_away_the_newest_of_who_holds_most() -> None:
    crowd = Crowd(gate(max_queued=4))
    for _ in range(5):
        crowd.comes(A)
    crowd.comes(B)
    assert (crowd.refused, crowd.gate.queued) == (["a"], 4)
    crowd.comes(A)
    assert crowd.refused == ["a", "a"]
    crowd.comes(B)
    # Now each holds half.
    crowd.comes(B)
    assert crowd.refused == ["a", "a", "a", "b"]
    assert Counter(crowd.serve(4)) == {"a": 2, "b": 2}


def test_who_is_more_urgent_does_not_give_way() -> None:
    crowd = Crowd(gate(max_queued=3))
    crowd.comes(A)
    for _ in range(3):
        crowd.comes(A, priority=-1)
    crowd.comes(B)
    assert crowd.refused == ["b"]
    crowd.comes(B, priority=-1)
    assert crowd.refused == ["b", "a"]


def test_the_heavy_give_way_to_the_heavy() -> None:
    crowd = Crowd(gate(max_running=4, max_queued=8))
    crowd.comes(A, weight=3)
    crowd.comes(A, weight=3)
    crowd.comes(A, weight=3)
    crowd.comes(B, weight=2)
    assert (crowd.refused, crowd.gate.queued) == (["a"], 5)


def test_whoever_comes_without_a_tenant_is_one_tenant() -> None:
    crowd = Crowd(gate(max_queued=2))
    for _ in range(3):
        crowd.comes(None)
    crowd.comes(A)
    assert crowd.refused == [""]


def test_the_gate_is_as_large_as_the_engine_unless_it_was_said_how_large() -> None:
    told, untold = gate(max_running=3), Gate(AdmissionSettings())
    for one in (told, untold):
        one.fit(None)
        one.fit(2)
    for _ in range(5):
        told.enter(0, lambda: None)
        untold.enter(0, lambda: None)
    assert (told.running, untold.running) == (3, 2)


def test_an_estimate_only_grows_and_the_end_says_what_it_was() -> None:
    crowd = Crowd(gate(max_running=2))
    crowd.comes(A, cost=10.0)
    crowd.comes(B, cost=10.0)
    (_, first), (_, second) = crowd.running
    first.charge(5.0)
    first.charge(30.0)
    second.charge(20.0)
    for _ in range(2):
        crowd.comes(A, cost=0.0)
        crowd.comes(B, cost=0.0)
    second.charge(40.0, exactly=True)
    first.charge(12.0, exactly=True)
    second.leave()
    assert crowd.admitted[2:] == ["a"]
    # What is over is not charged again.
    second.charge(1000.0)
    first.leave()
    assert crowd.admitted[2:] == ["a", "a"]


def test_what_came_from_the_cache_costs_nothing() -> None:
    assert cost_of(Usage(prompt_tokens=100, cached_tokens=64, completion_tokens=10)) == 36 + 10 * OUTPUT_COST


requests = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(-1, 1), st.integers(1, 4), st.booleans()), max_size=80
)


@given(requests, st.integers(1, 6), st.integers(0, 8))
def test_nobody_is_turned_away_who_holds_less_than_another(
    steps: list[tuple[str, int, int, bool]], max_running: int, max_queued: int
) -> None:
    held = Counter[str]()
    mine = Gate(AdmissionSettings(max_running=max_running, max_queued=max_queued))
    running: list[Ticket] = []

    for name, priority, weight, ends in steps:
        tickets: list[Ticket] = []
        waited = False

        def admit(name: str = name, weight: int = weight, tickets: list[Ticket] = tickets) -> None:
            if tickets:
                held[name] -= weight
                running.append(tickets[0])

        def evict(error: PenstockError, name: str = name, weight: int = weight) -> None:
            # Somebody else's request took its place, and with it that one holds no more than this one did.
            assert held[name] >= max(held.values()) - 4
            held[name] -= weight

        try:
            ticket = mine.enter(priority, admit, evict, weight=weight, tenant=TenantShare(name=name), cost=weight)
        except QueueFull:
            continue
        tickets.append(ticket)
        waited = ticket.is_waiting
        if waited:
            held[name] += weight
        else:
            running.append(ticket)
        assert mine.queued == sum(held.values())
        assert mine.queued < max_queued + 4
        if ends and running:
            running.pop(0).leave()
    while running:
        running.pop(0).leave()
    assert (mine.running, mine.queued) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 20)), min_size=20, max_size=120), st.integers(1, 4))
def test_tenants_that_always_wait_are_served_alike(sizes: list[tuple[str, int]], max_running: int) -> None:
    """The paper's bound: twice the larger of what a step takes in and what it holds, in cost."""
    crowd = Crowd(gate(max_running=max_running, max_queued=1000))
    costs: dict[str, list[int]] = {"a": [], "b": []}
    for name, size in sizes:
        costs[name].append(size)
    for name, waiting in costs.items():
        for size in waiting:
            crowd.comes(TenantShare(name=name), cost=size)
    spent = {"a": 0.0, "b": 0.0}
    before = len(crowd.admitted)
    most = max(size for _, size in sizes)
    for _ in range(min(map(len, costs.values())) - max_running - 1):
        _, ticket = crowd.running.pop(0)
        ticket.leave()
        for name in crowd.admitted[before:]:
            spent[name] += costs[name][sum(one == name for one in crowd.admitted[:before])]
            before += 1
        waits = all(crowd.admitted.count(name) < len(waiting) for name, waiting in costs.items())
        if waits:
            assert abs(spent["a"] - spent["b"]) <= 2 * most * (max_running + 1)
