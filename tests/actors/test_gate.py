from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.gate import Gate, Ticket
from actors.settings import AdmissionSettings
from engines.errors import Draining, PenstockError, QueueFull


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
        gate.enter(100, admitting(admitted, "d"))
    assert (admitted, gate.running, gate.queued) == (["a", "b"], 2, 1)


def test_priorities_are_strict_and_first_come_first_served_within() -> None:
    gate = Gate(AdmissionSettings(max_running=1))
    order: list[str] = []
    running = gate.enter(0, nothing)
    tickets = {
        name: gate.enter(priority, admitting(order, name))
        for name, priority in [("low", -1), ("first", 0), ("second", 0), ("high", 7)]
    }
    running.leave()
    for name in ["high", "first", "second", "low"]:
        tickets[name].leave()
    assert order == ["high", "first", "second", "low"]
    assert (gate.running, gate.queued) == (0, 0)


def test_what_goes_on_is_not_refused_and_waits_before_everybody() -> None:
    gate = Gate(AdmissionSettings(max_running=1, max_queued=1))
    order: list[str] = []
    running = gate.enter(0, nothing)
    high = gate.enter(100, admitting(order, "high"))
    gate.enter(-100, admitting(order, "goes on"), goes_on=True)
    assert (gate.running, gate.queued) == (1, 2)
    running.leave()
    assert order == ["goes on"]
    high.leave()


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


steps = st.lists(st.tuples(st.sampled_from(["enter", "leave"]), st.integers(-2, 2), st.integers(0, 30)), max_size=60)


@given(steps, st.integers(1, 3), st.integers(0, 4))
def test_the_gate_behaves_as_its_model(steps: list[tuple[str, int, int]], max_running: int, max_queued: int) -> None:
    gate = Gate(AdmissionSettings(max_running=max_running, max_queued=max_queued))
    tickets: list[Ticket] = []
    admitted: list[int] = []
    running: list[int] = []
    waiting: list[tuple[int, int]] = []
    order: list[int] = []
    for step, priority, pick in steps:
        number = len(tickets)
        if step == "enter":
            room = len(running) < max_running
            if not room and len(waiting) >= max_queued:
                with pytest.raises(QueueFull):
                    gate.enter(priority, nothing)
                continue
            tickets.append(gate.enter(priority, lambda number=number: admitted.append(number)))  # type: ignore[misc]
            if room:
                running.append(number)
                order.append(number)
            else:
                waiting.append((-priority, number))
        elif tickets:
            number = pick % len(tickets)
            tickets[number].leave()
            waiting = [entry for entry in waiting if entry[1] != number]
            if number in running:
                running.remove(number)
                if waiting:
                    waiting.sort()
                    _, successor = waiting.pop(0)
                    running.append(successor)
                    order.append(successor)
        assert admitted == order
        assert (gate.running, gate.queued) == (len(running), len(waiting))
