import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.scaling.sizing import MOST_USE, instances_for, mean_wait_s

work = st.floats(0.01, 40)
seconds = st.floats(0.01, 30)


def test_no_work_needs_no_instance() -> None:
    assert instances_for(0, 1, 1, 8) == 0


def test_one_server_waits_as_pollaczek_and_khinchine_say() -> None:
    # M/G/1: W = use / (1 - use) * (1 + c^2) / 2 * service.
    assert mean_wait_s(1, 0.5, 2.0) == pytest.approx(0.5 / 0.5 * 1.5 * 2.0)


def test_more_work_than_instances_waits_forever() -> None:
    assert mean_wait_s(2, 2.0, 1.0) == math.inf


@given(work, seconds, seconds)
def test_never_plans_an_instance_to_the_full(work: float, service_s: float, wait_s: float) -> None:
    found = instances_for(work, service_s, wait_s, 1000)
    assert work / found <= MOST_USE


@given(work, work, seconds, seconds)
def test_more_work_never_needs_fewer(one: float, other: float, service_s: float, wait_s: float) -> None:
    less, more = sorted((one, other))
    assert instances_for(less, service_s, wait_s, 64) <= instances_for(more, service_s, wait_s, 64)


@given(work, seconds, seconds, seconds)
def test_a_stricter_goal_never_needs_fewer(work: float, service_s: float, one: float, other: float) -> None:
    strict, lax = sorted((one, other))
    assert instances_for(work, service_s, strict, 64) >= instances_for(work, service_s, lax, 64)
