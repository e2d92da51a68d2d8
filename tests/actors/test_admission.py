from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.admission import Gate, Ticket
from actors.settings import AdmissionSettings
from engines.errors import Draining, PenstockError, QueueFull, QueueTimeout


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def nothing() -> None:
    return None


def admitting(order: list[str], name: str) -> Callable[[], None]:
    return lambda: order.append(name)


def test_so_many_run_so_many_wait_and_the_rest_is_refused_at_once() -> None:
    gate = Gate(AdmissionSettings(max_running=2, max_queued=1))
    admitted: list[str] = []
    for name in "abc":
        gate.enter(0, admitting(admitted, name))
    with pytest.raises(QueueFull):
        gate.enter(-100, admitting(admitted, "d"))
    assert (admitted, gate.running, gate.queued) == (["a", "b"], 2, 1)


def test_priorities_are_strict_and_first_come_first_served_within() -> None:
    gate = Gate(AdmissionSettings(max_running=1))
    order: list[str] = []
    running = gate.enter(0, nothing)
    tickets = {
        name: gate.enter(priority, admitting(order, name))
        for name, priority in [("late", 1), ("first", 0), ("second", 0), ("early", -7)]
    }
    running.leave()
    for name in ["early", "first", "second", "late"]:
        tickets[name].leave()
    assert order == ["early", "first", "second", "late"]
    assert (gate.running, gate.queued) == (0, 0)


def test_what_goes_on_is_not_refused_and_waits_before_everybody() -> None:
    gate = Gate(AdmissionSettings(max_running=1, max_queued=1))
    order: list[str] = []
    running = gate.enter(0, nothing)
    early = gate.enter(-100, admitting(order, "early"))
    gate.enter(100, admitting(order, "goes on"), goes_on=True)
    assert (gate.running, gate.queued) == (1, 2)
    running.leave()
    assert order == ["goes on"]
    early.leave()


def test_who_waits_may_leave_and_makes_room_in_the_queue() -> None:
    gate = Gate(AdmissionSettings(max_running=1, max_queued=1))
    order: list[str] = []
    running = gate.enter(0, nothing)
    gate.enter(0, admitting(order, "gave up")).leave()
    gate.enter(0, admitting(order, "stayed"))
    running.leave()
    assert order == ["stayed"]


def test_a_ticket_gives_its_place_back_once() -> None:
    gate = Gate(AdmissionSettings(max_running=2))
    first, _ = gate.enter(0, nothing), gate.enter(0, nothing)
    first.leave()
    first.leave()
    assert gate.running == 1


def test_a_long_queue_of_requests_that_leave_at_once_does_not_recurse() -> None:
    gate = Gate(AdmissionSettings(max_running=1, max_queued=5000))
    running = gate.enter(0, nothing)
    tickets: list[Ticket] = []
    for index in range(5000):
        tickets.append(gate.enter(0, lambda index=index: tickets[index].leave()))  # type: ignore[misc]
    running.leave()
    assert (gate.running, gate.queued) == (0, 0)


def test_clearing_turns_away_those_who_wait_and_nobody_else() -> None:
    gate = Gate(AdmissionSettings(max_running=1))
    evicted: list[PenstockError] = []
    gate.enter(0, nothing)
    waiting = [gate.enter(0, nothing, evicted.append) for _ in range(3)]
    gate.clear(Draining("bye"))
    assert evicted == [Draining("bye")] * 3
    assert (gate.running, gate.queued) == (1, 0)
    waiting[0].leave()
    assert (gate.running, gate.queued) == (1, 0)


def test_the_refusal_says_when_to_come_back_from_the_observed_service_time() -> None:
    clock = Clock()
    gate = Gate(AdmissionSettings(max_running=4, max_queued=3), clock)
    for _ in range(8):
        ticket = gate.enter(0, nothing)
        clock.now_s += 2.0
        ticket.leave()
    for _ in range(7):
        gate.enter(0, nothing)
    with pytest.raises(QueueFull) as refusal:
        gate.enter(0, nothing)
    # Four places of 2 s each let two requests a second through; three wait, and this one.
    assert refusal.value.retry_after_s == pytest.approx(2.0)


def test_a_request_that_failed_says_nothing_of_the_service_time() -> None:
    clock = Clock()
    gate = Gate(AdmissionSettings(max_running=1, max_queued=0), clock)
    ticket = gate.enter(0, nothing)
    clock.now_s += 2.0
    ticket.leave()
    for _ in range(100):
        gate.enter(0, nothing).leave(failed=True)
    assert gate.retry_after_s() == pytest.approx(2.0)


def test_a_heavy_request_takes_the_room_of_several() -> None:
    gate = Gate(AdmissionSettings(max_running=8))
    order: list[str] = []
    heavy = gate.enter(0, admitting(order, "heavy"), weight=6)
    for name in ("light", "another"):
        gate.enter(0, admitting(order, name))
    gate.enter(0, admitting(order, "waits"))
    assert (order, gate.running, gate.queued) == (["heavy", "light", "another"], 8, 1)
    heavy.leave()
    assert (order, gate.running, gate.queued) == (["heavy", "light", "another", "waits"], 3, 0)


def test_heavy_requests_leave_a_quarter_of_the_gate_to_the_others() -> None:
    gate = Gate(AdmissionSettings(max_running=8))
    order: list[str] = []
    heaviest = gate.enter(0, admitting(order, "heaviest"), weight=128)
    gate.enter(-1, admitting(order, "heavy"), weight=3)
    gate.enter(0, admitting(order, "less heavy"), weight=2)
    assert (order, gate.running, gate.queued) == (["heaviest"], 128, 5)
    # One that waits for others of its kind keeps nobody waiting, not even of a later class.
    gate.enter(0, admitting(order, "light")).leave()
    gate.enter(5, admitting(order, "late")).leave()
    assert order == ["heaviest", "light", "late"]
    heaviest.leave()
    assert order == ["heaviest", "light", "late", "heavy", "less heavy"]


def test_heavy_requests_do_not_overtake_heavier_ones() -> None:
    gate = Gate(AdmissionSettings(max_running=8))
    order: list[str] = []
    running = gate.enter(0, nothing, weight=4)
    gate.enter(0, admitting(order, "heaviest"), weight=6)
    gate.enter(0, admitting(order, "fits"), weight=2)
    assert order == []
    running.leave()
    assert order == ["heaviest"]


def test_nobody_of_its_class_or_a_later_one_overtakes_a_heavy_request() -> None:
    gate = Gate(AdmissionSettings(max_running=4))
    order: list[str] = []
    running = [gate.enter(0, nothing) for _ in range(3)]
    heavy = gate.enter(0, admitting(order, "heavy"), weight=4)
    gate.enter(0, admitting(order, "same class"))
    gate.enter(5, admitting(order, "later"))
    assert order == []
    early = gate.enter(-1, admitting(order, "earlier"))
    assert order == ["earlier"]
    for ticket in (*running, early):
        ticket.leave()
    heavy.leave()
    assert order == ["earlier", "heavy", "same class", "later"]


def test_when_a_heavy_request_gives_up_those_behind_it_need_not_wait_any_more() -> None:
    gate = Gate(AdmissionSettings(max_running=2))
    order: list[str] = []
    gate.enter(0, nothing)
    heavy = gate.enter(0, nothing, weight=2)
    gate.enter(0, admitting(order, "light"))
    heavy.leave()
    assert (order, gate.running, gate.queued) == (["light"], 2, 0)


def test_a_gate_with_few_places_to_wait_in_takes_a_heavy_request_too() -> None:
    gate = Gate(AdmissionSettings(max_running=2, max_queued=1))
    gate.enter(0, nothing)
    gate.enter(0, nothing, weight=100)
    with pytest.raises(QueueFull):
        gate.enter(0, nothing)
    assert gate.queued == 100


def test_a_wait_ends_by_itself() -> None:
    clock = Clock()
    gate = Gate(AdmissionSettings(max_running=1, queue_timeout_s=60.0), clock)
    evicted: dict[str, PenstockError] = {}

    def wait(name: str, priority: int, goes_on: bool = False) -> Ticket:
        return gate.enter(priority, nothing, lambda error: evicted.update({name: error}), goes_on=goes_on)

    running = gate.enter(0, nothing)
    wait("early", -1)
    wait("late", 1)
    wait("goes on", 0, goes_on=True)
    clock.now_s += 30.0
    patient = wait("patient", 1)
    clock.now_s += 29.9
    gate.expire()
    assert evicted == {}
    clock.now_s += 0.1
    gate.expire()
    assert sorted(evicted) == ["early", "late"]
    assert all(isinstance(error, QueueTimeout) and error.retry_after_s for error in evicted.values())
    assert (gate.running, gate.queued) == (1, 2)
    running.leave()
    assert patient.is_waiting
    assert (gate.running, gate.queued) == (1, 1)


def test_those_behind_a_heavy_request_that_waited_too_long_are_let_in() -> None:
    clock = Clock()
    gate = Gate(AdmissionSettings(max_running=4, queue_timeout_s=1.0), clock)
    order: list[str] = []
    evicted: list[PenstockError] = []
    for _ in range(2):
        gate.enter(0, nothing)
    gate.enter(0, nothing, evicted.append, weight=3)
    gate.enter(0, admitting(order, "light"), evicted.append)
    assert order == []
    clock.now_s += 2.0
    gate.expire()
    assert (order, len(evicted)) == (["light"], 1)


steps = st.lists(
    st.tuples(st.sampled_from(["enter", "leave"]), st.integers(-2, 2), st.integers(0, 30), st.integers(1, 5)),
    max_size=60,
)


@given(steps, st.integers(1, 8), st.integers(0, 6))
def test_the_gate_behaves_as_its_model(
    steps: list[tuple[str, int, int, int]], max_running: int, max_queued: int
) -> None:
    gate = Gate(AdmissionSettings(max_running=max_running, max_queued=max_queued))
    tickets: list[Ticket] = []
    admitted: list[int] = []
    running: list[int] = []
    waiting: list[tuple[int, int]] = []
    order: list[int] = []
    weights: list[int] = []

    heavy_room = max_running - max_running // 4

    def queued(least: int = 1) -> int:
        return sum(weights[number] for _, number in waiting if weights[number] >= least)

    def taken(numbers: list[int]) -> int:
        return sum(min(weights[number], heavy_room) for number in numbers)

    def successor() -> tuple[int, int] | None:
        """Who may run next: the first of all, leaving out the heavy ones while the first of them lacks heavy room."""
        candidates = sorted(waiting)
        heavy = [entry for entry in candidates if weights[entry[1]] > 1]
        running_heavy = [number for number in running if weights[number] > 1]
        if heavy and taken(running_heavy) + taken([heavy[0][1]]) > heavy_room:
            candidates = [entry for entry in candidates if entry not in heavy]
        if not candidates or taken(running) + taken([candidates[0][1]]) > max_running:
            return None
        return candidates[0]

    for step, priority, pick, weight in steps:
        number = len(tickets)
        if step == "enter":
            before, heavy_before = queued(), queued(least=2)
            weights.append(weight)
            waiting.append((priority, number))
            is_full = before >= max_queued or (weight > 1 and heavy_before >= max_queued - max_queued // 4)
            if successor() != (priority, number) and is_full:
                waiting.pop()
                weights.pop()
                with pytest.raises(QueueFull):
                    gate.enter(priority, nothing, weight=weight)
                continue
            admits = lambda number=number: admitted.append(number)  # type: ignore[misc]  # noqa: E731
            tickets.append(gate.enter(priority, admits, weight=weight))
        elif tickets:
            number = pick % len(tickets)
            tickets[number].leave()
            waiting = [entry for entry in waiting if entry[1] != number]
            running = [other for other in running if other != number]
        while (entry := successor()) is not None:
            waiting.remove(entry)
            running.append(entry[1])
            order.append(entry[1])
        assert admitted == order
        assert (gate.running, gate.queued) == (sum(weights[number] for number in running), queued())
