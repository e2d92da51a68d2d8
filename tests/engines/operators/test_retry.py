"""Setup errors that pass by themselves are tried again, in time and never for nothing."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.call_requests import TokenizeRequest
from engines.completion import collect
from engines.context import Context
from engines.errors import Cancelled, CircuitOpen, InstanceLost, InvalidRequest, NoInstance, PenstockError, QueueFull
from engines.operators.link import link
from engines.operators.retry import Retry, RetryOptions
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from tests.contract.asking import Recorder, eventually
from tests.engines.operators.conftest import playing

REQUEST = GenerateRequest(model="m", prompt="hi")
AT_ONCE = RetryOptions(base_s=0.001)


async def test_a_transient_setup_error_is_tried_again_and_the_caller_sees_only_the_answer() -> None:
    engine = await playing("e", [NoInstance("none")], [QueueFull("full")], ["one"])
    completion = await collect(link(Retry(AT_ONCE), engine).generate(REQUEST, Context()))
    assert (completion.text, len(engine.requests)) == ("one", 3)


@pytest.mark.parametrize(
    ("error", "tries"), [(NoInstance("none"), 3), (InvalidRequest("no"), 1), (CircuitOpen("left alone"), 1)]
)
async def test_how_often(error: PenstockError, tries: int) -> None:
    engine = await playing("e", [error])
    with pytest.raises(type(error)):
        await collect(link(Retry(AT_ONCE), engine).generate(REQUEST, Context()))
    assert len(engine.requests) == tries


async def test_what_breaks_after_it_began_is_not_its_to_try_again() -> None:
    engine = await playing("e", ["one ", InstanceLost("gone")], ["two"])
    with pytest.raises(InstanceLost):
        await collect(link(Retry(AT_ONCE), engine).generate(REQUEST, Context()))
    assert len(engine.requests) == 1


@given(st.integers(1, 100), st.floats(0, 100), st.floats(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_waits_double_up_to_the_cap_and_grow_by_the_jitter_at_most(
    attempt: int, base_s: float, cap_s: float, jitter: float, share: float
) -> None:
    options = RetryOptions(base_s=base_s, cap_s=cap_s, jitter=jitter)
    bare = min(cap_s, base_s * 2 ** (attempt - 1))
    assert bare <= options.wait_s(attempt, NoInstance("none"), share) <= bare * (1 + jitter) + 1e-9
    assert options.wait_s(attempt, NoInstance("none", retry_after_s=7.5), share) == 7.5


def test_the_defaults() -> None:
    waits = [RetryOptions().wait_s(attempt, NoInstance("none"), share=0.0) for attempt in (1, 2, 3, 6, 50)]
    assert waits == [1.0, 2.0, 4.0, 30.0, 30.0]
    assert RetryOptions().wait_s(1, NoInstance("none"), share=1.0) == pytest.approx(1.1)


async def test_retry_after_is_waited_for_and_one_that_is_too_long_is_not() -> None:
    soon, late = QueueFull("full", retry_after_s=0.05), QueueFull("full", retry_after_s=3600.0)
    engine = await playing("e", [soon], [late])
    began_s = time.monotonic()
    with pytest.raises(QueueFull) as caught:
        await collect(link(Retry(RetryOptions(base_s=60.0)), engine).generate(REQUEST, Context()))
    assert caught.value.retry_after_s == 3600.0
    assert (len(engine.requests), 0.05 <= time.monotonic() - began_s < 30) == (2, True)


async def test_nobody_waits_past_the_deadline() -> None:
    engine = await playing("e", [NoInstance("none")])
    context = Context(deadline_s=time.monotonic() + 10.0)
    with pytest.raises(NoInstance):
        await collect(link(Retry(RetryOptions(base_s=20.0)), engine).generate(REQUEST, context))
    assert len(engine.requests) == 1


async def test_a_request_that_is_cancelled_while_it_waits_is_not_tried_again() -> None:
    for cancel, ends in ((Context.stop, "cancelled"), (Context.kill, Cancelled)):
        engine = await playing("e", [NoInstance("none")])
        retry, context, recorder = link(Retry(RetryOptions(base_s=60.0)), engine), Context(), Recorder()
        asking = asyncio.ensure_future(retry.submit(REQUEST, context, recorder))
        await eventually(lambda engine=engine: len(engine.requests) == 1)  # type: ignore[misc]
        cancel(context)
        if ends is Cancelled:
            with pytest.raises(Cancelled):
                await asking
        else:
            await asking
            await recorder.over()
            assert recorder.finished is not None and recorder.finished.reason == "cancelled"
        assert len(engine.requests) == 1


class Sometimes(ScriptedEngine):
    """Tokenizes the third time."""

    calls = 0

    async def call(self, request, context):  # type: ignore[no-untyped-def]
        self.calls += 1
        if self.calls < 3:
            raise NoInstance("none")
        return await super().call(request, context)


async def test_calls_are_tried_again_likewise() -> None:
    engine = Sometimes("e")
    await engine.start()
    request = TokenizeRequest(model="m", prompt="ab")
    assert (await link(Retry(AT_ONCE), engine).tokenize(request)).token_ids == [ord("a"), ord("b")]
    assert engine.calls == 3
