"""Stopping, killing and walking away: at any moment, and many at once."""

import asyncio
import random

import pytest

from engines.context import Context
from engines.errors import Cancelled
from engines.events import Finished
from tests.contract.asking import Recorder, Running, counted

pytestmark = pytest.mark.asyncio(loop_scope="session")

LAST = 200
"""Counting to here takes much longer than cancelling."""


@pytest.mark.parametrize("at", [1, 2, 7])
async def test_stop_ends_with_finished_and_keeps_what_came(subject: Running, at: int) -> None:
    context = Context()
    recorder = Recorder(lambda deltas: context.stop() if deltas == at else None)
    await subject.engine.submit(subject.counting(1, LAST), context, recorder)
    await recorder.over()
    assert recorder.finished is not None
    assert recorder.finished.reason == "cancelled"
    assert recorder.finished.engine in subject.names
    assert recorder.text and counted(1, LAST).startswith(recorder.text)
    assert len(recorder.text) < len(counted(1, LAST))
    await subject.is_idle()
    assert not recorder.broken


async def test_a_request_that_is_stopped_already_says_nothing(subject: Running) -> None:
    context = Context()
    context.stop()
    recorder = Recorder()
    await subject.engine.submit(subject.counting(1, LAST), context, recorder)
    await recorder.over()
    assert recorder.finished is not None
    assert recorder.finished.reason == "cancelled"
    assert counted(1, LAST).startswith(recorder.text)
    await subject.is_idle()


async def test_kill_ends_with_cancelled_at_once(subject: Running) -> None:
    context = Context()
    recorder = Recorder(lambda deltas: context.kill() if deltas == 3 else None)
    await subject.engine.submit(subject.counting(1, LAST), context, recorder)
    await recorder.over()
    assert isinstance(recorder.error, Cancelled)
    assert recorder.deltas == 3, "nothing is said after a kill"
    await subject.is_idle()
    assert not recorder.broken


async def test_a_request_that_is_killed_already_is_a_setup_error_or_fails(subject: Running) -> None:
    context = Context()
    context.kill()
    with pytest.raises(Cancelled):
        await subject.ask(subject.counting(1, LAST), context)
    await subject.is_idle()


async def test_kill_after_stop_does_not_end_it_twice(subject: Running) -> None:
    context = Context()
    recorder = Recorder(lambda deltas: context.stop() if deltas == 2 else None)
    await subject.engine.submit(subject.counting(1, LAST), context, recorder)
    await recorder.over()
    context.kill()
    context.stop()
    await subject.still_serves()
    assert recorder.finished is not None and recorder.error is None
    assert not recorder.broken


async def test_a_stopped_parent_stops_a_linked_request(subject: Running) -> None:
    parent = Context()
    recorder = Recorder(lambda deltas: parent.stop() if deltas == 2 else None)
    await subject.engine.submit(subject.counting(1, LAST), parent.child(), recorder)
    await recorder.over()
    assert recorder.finished is not None and recorder.finished.reason == "cancelled"


async def test_dropping_the_iterator_frees_the_slot(subject: Running) -> None:
    events = subject.engine.generate(subject.counting(1, LAST), Context())
    await anext(events)
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    await subject.is_idle()


async def test_cancelling_the_reading_task_frees_the_slot(subject: Running) -> None:
    reading = asyncio.ensure_future(subject.ask(subject.counting(1, LAST)))
    for _ in range(5):
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await subject.is_idle()


async def test_a_storm_of_cancels_leaves_nothing_behind(subject: Running) -> None:
    chance = random.Random(7)
    recorders = []
    for number in range(1, 49):
        context = Context()
        cancel = chance.choice((context.stop, context.kill))
        at = chance.randint(1, 12)
        recorder = Recorder(lambda deltas, at=at, cancel=cancel: cancel() if deltas == at else None)  # type: ignore[misc]
        recorders.append(recorder)
        await subject.engine.submit(subject.counting(number, number + 60), context, recorder)
    for number, recorder in enumerate(recorders, 1):
        await recorder.over()
        assert counted(number, number + 60).startswith(recorder.text)
        assert isinstance(recorder.error, Cancelled) or isinstance(recorder.events[-1], Finished)
    await subject.still_serves()
    assert not any(recorder.broken for recorder in recorders)
