import pytest

from deployments.routing.faults import Faults, is_fault
from engines.errors import (
    Cancelled,
    Draining,
    EngineDead,
    EngineFailed,
    InstanceLost,
    InvalidRequest,
    NotReady,
    PenstockError,
    QueueFull,
    StreamIncomplete,
    Timeout,
)
from tests.clock import Clock


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (InstanceLost("x"), True),
        (StreamIncomplete("x"), True),
        (EngineDead("x"), True),
        (Timeout("first_token", 1.0), True),
        (EngineFailed("x"), False),
        (QueueFull("x"), False),
        (Draining("x"), False),
        (NotReady("x"), False),
        (Cancelled("x"), False),
        (InvalidRequest("x"), False),
    ],
)
def test_only_a_broken_instance_is_a_fault(error: PenstockError, fault: bool) -> None:
    assert is_fault(error) is fault


def test_an_inhibited_instance_comes_back_after_its_time() -> None:
    clock = Clock()
    faults = Faults(2.0, clock)
    faults.inhibit("a", 1)
    assert faults.remaining_s("a", 1) == 2.0
    assert faults.remaining_s("b", 1) == 0.0
    clock.now_s += 1.5
    assert faults.remaining_s("a", 1) == 0.5
    clock.now_s += 0.5
    assert faults.remaining_s("a", 1) == 0.0


def test_a_newer_incarnation_is_not_inhibited() -> None:
    faults = Faults(2.0, Clock())
    faults.inhibit("a", 1)
    assert faults.remaining_s("a", 2) == 0.0


def test_a_late_fault_of_an_older_incarnation_says_nothing_of_the_newer() -> None:
    clock = Clock()
    faults = Faults(2.0, clock)
    faults.inhibit("a", 2)
    clock.now_s += 1
    faults.inhibit("a", 1)
    assert faults.remaining_s("a", 2) == 1.0


def test_forgets_instances_that_are_no_more() -> None:
    faults = Faults(2.0, Clock())
    faults.inhibit("a", 1)
    faults.inhibit("b", 1)
    faults.forget_others({"b"})
    assert faults.remaining_s("a", 1) == 0.0
    assert faults.remaining_s("b", 1) == 2.0
