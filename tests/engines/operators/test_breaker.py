"""An engine that fails again and again is left alone, and found again by one probe at a time."""

from typing import Any

import pytest

from engines.completion import collect
from engines.context import Context
from engines.errors import (
    CircuitOpen,
    Draining,
    EngineFailed,
    InstanceLost,
    InvalidRequest,
    NoInstance,
    PenstockError,
    QueueFull,
)
from engines.operators.breaker import Breaker, BreakerOptions, BreakerTurned
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from tests.contract.asking import Recorder, eventually
from tests.engines.operators.conftest import Clock, playing

REQUEST = GenerateRequest(model="m", prompt="hi")
OPTIONS = BreakerOptions(failures=3, window_s=10.0, cool_down_s=5.0)


def around(engine: ScriptedEngine, clock: Clock) -> tuple[Breaker, list[Any]]:
    breaker, reports = Breaker(OPTIONS, clock).around(engine), []  # type: ignore[var-annotated]
    breaker.report = reports.append
    return breaker, reports


async def ask(breaker: Breaker) -> str:
    return (await collect(breaker.generate(REQUEST, Context()))).text


async def fails(breaker: Breaker, error: type[PenstockError], times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(error):
            await ask(breaker)


@pytest.mark.parametrize("script", [[NoInstance("none")], ["one ", InstanceLost("gone")], [EngineFailed("failed")]])
async def test_faults_within_the_window_open_it_and_then_nothing_reaches_the_engine(
    script: list[object], clock: Clock
) -> None:
    engine = await playing("e", script)
    breaker, reports = around(engine, clock)
    await fails(breaker, PenstockError, 3)
    assert (breaker.state, breaker.ready, reports) == ("open", False, [BreakerTurned("e", "open")])
    with pytest.raises(CircuitOpen) as caught:
        await ask(breaker)
    assert (caught.value.retry_after_s, len(engine.requests)) == (5.0, 3)


async def test_faults_that_are_far_apart_do_not(clock: Clock) -> None:
    breaker, _ = around(await playing("e", [NoInstance("none")]), clock)
    for _ in range(9):
        await fails(breaker, NoInstance)
        clock.now_s += 6.0
    assert breaker.state == "closed"


@pytest.mark.parametrize("error", [InvalidRequest("no"), QueueFull("full"), Draining("ends")])
async def test_what_is_no_fault_of_the_engine_does_not_count(error: PenstockError, clock: Clock) -> None:
    breaker, reports = around(await playing("e", [error]), clock)
    await fails(breaker, type(error), 20)
    assert (breaker.state, reports) == ("closed", [])


async def test_after_the_cool_down_one_probe_at_a_time_decides(clock: Clock) -> None:
    broken = [NoInstance("none")]
    engine = await playing("e", broken, broken, broken, [Hang()], broken, [Hang()], ["one"])
    breaker, reports = around(engine, clock)
    await fails(breaker, NoInstance, 3)
    clock.now_s += 5.0
    assert (breaker.state, breaker.ready) == ("half_open", True)
    probe, recorder = Context(), Recorder()
    await breaker.submit(REQUEST, probe, recorder)
    assert not breaker.ready
    await fails(breaker, CircuitOpen, 5)
    # Its caller leaves: nothing is known, and the next one is the probe.
    probe.kill()
    await recorder.over()
    assert (breaker.state, breaker.ready) == ("half_open", True)
    await fails(breaker, NoInstance)
    assert breaker.state == "open"
    clock.now_s += 5.0
    stopped, recorder = Context(), Recorder()
    await breaker.submit(REQUEST, stopped, recorder)
    stopped.stop()
    await recorder.over()
    assert breaker.state == "half_open"
    assert await ask(breaker) == "one" and breaker.state == "closed"
    assert [report.state for report in reports] == ["open", "half_open", "open", "half_open", "closed"]


async def test_a_probe_that_asks_for_nonsense_leaves_it_half_open(clock: Clock) -> None:
    broken = [NoInstance("none")]
    engine = await playing("e", broken, broken, broken, [InvalidRequest("no")], ["one"])
    breaker, _ = around(engine, clock)
    await fails(breaker, NoInstance, 3)
    clock.now_s += 5.0
    await fails(breaker, InvalidRequest)
    assert (breaker.state, breaker.ready) == ("half_open", True)
    assert await ask(breaker) == "one" and breaker.state == "closed"


async def test_a_probe_closes_it_with_its_first_piece_and_may_run_on(clock: Clock) -> None:
    broken = [NoInstance("none")]
    engine = await playing("e", broken, broken, broken, ["one ", Hang()], ["two"])
    breaker, _ = around(engine, clock)
    await fails(breaker, NoInstance, 3)
    clock.now_s += 5.0
    recorder, context = Recorder(), Context()
    await breaker.submit(REQUEST, context, recorder)
    await eventually(lambda: recorder.deltas == 1)
    assert breaker.state == "closed" and await ask(breaker) == "two"
    context.kill()
    await recorder.over()


async def test_a_stream_from_before_it_opened_says_nothing_of_now(clock: Clock) -> None:
    broken = [NoInstance("none")]
    engine = await playing("e", ["one ", Hang()], broken, broken, broken, [Hang()])
    breaker, _ = around(engine, clock)
    old, old_recorder = Context(), Recorder()
    await breaker.submit(REQUEST, old, old_recorder)
    await fails(breaker, NoInstance, 3)
    clock.now_s += 5.0
    probe, recorder = Context(), Recorder()
    await breaker.submit(REQUEST, probe, recorder)
    old.kill()
    await old_recorder.over()
    assert breaker.state == "half_open" and not breaker.ready
    probe.kill()
    await recorder.over()
