"""What takes too long ends with Timeout, in its phase, and its engine hears of it."""

import asyncio
import time

import pytest

from engines.call_requests import TokenizeRequest
from engines.completion import collect
from engines.context import Context
from engines.errors import InstanceLost, Timeout, TimeoutPhase
from engines.operators.link import link
from engines.operators.timeout import TimeoutOptions, Timeouts
from engines.requests import GenerateRequest
from engines.scripted.script import Hang, Hold, Say
from tests.contract.asking import Recorder, eventually
from tests.engines.operators.conftest import playing

REQUEST = GenerateRequest(model="m", prompt="hi")
SOON_S = 0.3


@pytest.mark.parametrize(
    ("options", "script", "phase", "text"),
    [
        ({"first_event_s": SOON_S}, [Hold(hold_s=600.0)], "first_token", None),
        ({"first_event_s": SOON_S}, [Hang()], "first_token", ""),
        ({"between_events_s": SOON_S}, ["one ", Hang()], "between_tokens", "one "),
        ({"total_s": SOON_S}, ["one ", Hang()], "total", "one "),
        ({"total_s": SOON_S}, [Hold(hold_s=600.0)], "total", None),
        ({"total_s": SOON_S, "first_event_s": 600.0, "between_events_s": 600.0}, ["one ", Hang()], "total", "one "),
    ],
)
async def test_each_phase(
    options: dict[str, float], script: list[object], phase: TimeoutPhase, text: str | None
) -> None:
    engine = await playing("e", script)
    recorder, context = Recorder(), Context()
    pipeline = link(Timeouts(TimeoutOptions(**options)), engine)
    if text is None:
        with pytest.raises(Timeout) as caught:
            await pipeline.submit(REQUEST, context, recorder)
        error, said = caught.value, None
    else:
        await pipeline.submit(REQUEST, context, recorder)
        await recorder.over()
        assert isinstance(recorder.error, Timeout)
        error, said = recorder.error, recorder.text
    assert (error.phase, said) == (phase, text) and error.timeout_s == pytest.approx(SOON_S, abs=0.02)
    await eventually(lambda: engine.load().running + engine.load().queued == 0)
    assert not context.is_stopped
    await asyncio.sleep(0)
    assert not recorder.broken


async def test_each_event_begins_the_wait_for_the_next_anew() -> None:
    script = [Say(say="x", times=8, every_s=0.3)]
    options = TimeoutOptions(first_event_s=2.0, between_events_s=2.0, total_s=600.0)
    engine = await playing("e", script)
    assert (await collect(link(Timeouts(options), engine).generate(REQUEST, Context()))).text == "x" * 8


async def test_a_deadline_of_the_caller_is_one_of_ours_whatever_the_options() -> None:
    engine = await playing("e", ["one ", Hang()])
    context = Context(deadline_s=time.monotonic() + SOON_S)
    with pytest.raises(Timeout) as caught:
        await collect(link(Timeouts(), engine).generate(REQUEST, context))
    assert caught.value.phase == "total"


async def test_what_is_inside_knows_the_deadline() -> None:
    seen: list[float] = []

    class Look(Timeouts):
        async def submit(self, request, context, sink):  # type: ignore[no-untyped-def]
            seen.append(context.deadline_s)
            await super().submit(request, context, sink)

    engine = await playing("e", ["one"])
    before_s = time.monotonic()
    await collect(link(Timeouts(TimeoutOptions(total_s=50.0)), Look(), engine).generate(REQUEST, Context()))
    assert before_s + 50.0 <= seen[0] <= time.monotonic() + 50.0


async def test_in_time_nothing_changes_and_no_timer_is_left() -> None:
    engine = await playing("e", ["one ", "two"], ["one ", InstanceLost("gone")])
    pipeline = link(Timeouts(TimeoutOptions(first_event_s=600.0, between_events_s=600.0, total_s=600.0)), engine)
    loop = asyncio.get_running_loop()
    assert (await collect(pipeline.generate(REQUEST, Context()))).text == "one two"
    with pytest.raises(InstanceLost):
        await collect(pipeline.generate(REQUEST, Context()))
    left = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    assert all(timer.when() < loop.time() + 300.0 for timer in left)


async def test_calls_have_a_limit_too() -> None:
    class Slow(Timeouts):
        async def call(self, request, context):  # type: ignore[no-untyped-def]
            await asyncio.Event().wait()

    engine = await playing("e", ["one"])
    with pytest.raises(Timeout):
        pipeline = link(Timeouts(TimeoutOptions(total_s=SOON_S)), Slow(), engine)
        await pipeline.tokenize(TokenizeRequest(model="m", prompt="a"))
