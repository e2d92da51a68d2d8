import pytest

from deployments.scaling.scaler import Goal, Scaler
from engines.simulated.options import StepTime
from tests.benchmarks.simulated_fleet import Machine, SimulatedFleet, TraceRequest
from tests.benchmarks.traces import like_a_day, synthetic_trace

MACHINE = Machine(StepTime(base_s=0.1, prefill_token_s=0.001, decode_sequence_s=0.01, context_token_s=0.0))


def test_a_request_alone_takes_the_steps_of_the_formula() -> None:
    request = TraceRequest(0.0, prompt_tokens=100, output_tokens=11)
    SimulatedFleet(MACHINE, 0.0, 1).run([request])
    assert request.ttft_s == pytest.approx(0.1 + 0.001 * 100)
    assert request.done_s - request.first_s == pytest.approx(10 * (0.1 + 0.01))


def test_a_long_prompt_is_computed_in_pieces_and_the_next_one_waits() -> None:
    first, second = TraceRequest(0.0, 4096, 1), TraceRequest(0.0, 100, 1)
    SimulatedFleet(MACHINE, 0.0, 1).run([first, second])
    assert first.ttft_s == pytest.approx(2 * (0.1 + 2.048))
    assert second.ttft_s > first.ttft_s


def test_what_comes_while_there_is_no_instance_is_held_until_one_has_booted() -> None:
    request = TraceRequest(0.0, 100, 5)
    fleet = SimulatedFleet(MACHINE, 30.0, 0, Scaler(Goal(0, 4, idle_s=60.0)))
    outcome = fleet.run([request], tail_s=600.0)
    assert 30 < request.ttft_s < 34
    assert (outcome.cold_starts, outcome.lost, outcome.targets[-1]) == (1, 0, 0)


def test_an_autoscaled_fleet_loses_nothing_and_costs_less_than_one_of_its_peak() -> None:
    trace = like_a_day(synthetic_trace(1800.0), silent_s=300.0)
    slow = Machine(StepTime(base_s=0.06, prefill_token_s=0.0003, decode_sequence_s=0.0002, context_token_s=0.0))
    auto = SimulatedFleet(slow, 30.0, 1, Scaler(Goal(0, 16, idle_s=120.0))).run(trace(), tail_s=300.0)
    peak = SimulatedFleet(slow, 30.0, auto.peak).run(trace(), tail_s=300.0)
    assert (auto.lost, auto.targets[-1]) == (0, 0)
    assert auto.ups + auto.downs < 20
    assert auto.peak > 2
    assert auto.instance_hours < 0.8 * peak.instance_hours
