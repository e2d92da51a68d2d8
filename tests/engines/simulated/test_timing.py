"""The time of a step."""

import pytest

from engines.simulated.options import StepTime
from engines.simulated.timing import StepClock

STEP_TIME = StepTime(base_s=1.0, prefill_token_s=0.1, decode_sequence_s=0.01, context_token_s=0.001)


def test_a_step_is_the_sum_of_its_terms() -> None:
    assert StepClock(STEP_TIME, 1.0).step_s(2, 3, 4) == pytest.approx(1.0 + 0.2 + 0.03 + 0.004)


def test_speed_divides_the_time() -> None:
    assert StepClock(STEP_TIME, 4.0).step_s(0, 0, 0) == pytest.approx(0.25)


@pytest.mark.parametrize("speed", [0, 0.0, "instant"])
def test_instant_steps_take_no_time(speed: float) -> None:
    clock = StepClock(STEP_TIME, speed)
    assert clock.instant
    assert clock.step_s(5, 5, 5) == 0
