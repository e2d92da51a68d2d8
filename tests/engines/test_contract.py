"""The bridges between the two forms of an engine: push out of pull, and pull out of push."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from engines.call_requests import EmbedRequest
from engines.completion import Collector, collect
from engines.context import Context
from engines.contract import Engine
from engines.errors import Cancelled, EngineFailed, InstanceLost, PenstockError, QueueFull, StreamIncomplete
from engines.events import Event, Finished, Started, TextDelta, Usage
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from engines.sink import Mailbox, Sink
from tests.contract.asking import Recorder, eventually

REQUEST = GenerateRequest(model="model", prompt="hello")
STARTED = Started("pulled", "model")
FINISHED = Finished(("stop",), Usage(), "pulled")


class Pulled(Engine):
    """An engine of the pull form, which says what it is given."""

    def __init__(self, *says: Event | Exception) -> None:
        self.name = "pulled"
        self.says = says
        self.closed = asyncio.Event()

    @property
    def ready(self) -> bool:
        return True

    async def start(self) -> None:
        pass

    async def stop(self, timeout_s: float = 30.0) -> None:
        pass

    async def generate(self, request: GenerateRequest, context: Context) -> AsyncIterator[Event]:
        try:
            for item in self.says:
                await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed.set()


async def pushed(*says: Event | Exception) -> Recorder:
    recorder = Recorder()
    await Pulled(*says).submit(REQUEST, Context(), recorder)
    await recorder.over()
    return recorder


async def started(engine: ScriptedEngine) -> ScriptedEngine:
    await engine.start()
    return engine


class TestPushOutOfPull:
    async def test_the_events_arrive_in_order(self) -> None:
        says = (STARTED, TextDelta("a"), TextDelta("b"), FINISHED)
        assert (await pushed(*says)).events == list(says)

    async def test_an_error_before_the_first_event_is_raised(self) -> None:
        recorder = Recorder()
        with pytest.raises(QueueFull):
            await Pulled(QueueFull("Full.")).submit(REQUEST, Context(), recorder)
        assert not recorder.events and recorder.error is None

    async def test_an_error_after_it_goes_to_the_sink(self) -> None:
        recorder = await pushed(STARTED, TextDelta("a"), InstanceLost("Gone."))
        assert recorder.error == InstanceLost("Gone.")
        assert recorder.text == "a"

    async def test_a_bug_goes_to_the_sink_as_engine_failed(self) -> None:
        recorder = await pushed(STARTED, ZeroDivisionError("oops"))
        assert isinstance(recorder.error, EngineFailed)
        assert "oops" in recorder.error.message

    async def test_no_event_at_all_is_a_setup_error(self) -> None:
        with pytest.raises(StreamIncomplete):
            await pushed()

    async def test_running_out_without_finished_is_stream_incomplete(self) -> None:
        recorder = await pushed(STARTED, TextDelta("a"))
        assert isinstance(recorder.error, StreamIncomplete)

    async def test_what_follows_finished_is_not_heard_and_the_iterator_is_closed(self) -> None:
        engine = Pulled(STARTED, FINISHED, TextDelta("too late"))
        recorder = Recorder()
        await engine.submit(REQUEST, Context(), recorder)
        await recorder.over()
        await asyncio.wait_for(engine.closed.wait(), 60)
        assert recorder.events == [STARTED, FINISHED]


class TestPullOutOfPush:
    async def test_the_events_arrive_in_order(self) -> None:
        engine = await started(ScriptedEngine("engine", script=["a", "b"]))
        events = [event async for event in engine.generate(REQUEST, Context())]
        assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
        assert [event.text for event in events if isinstance(event, TextDelta)] == ["a", "b"]

    async def test_a_setup_error_comes_from_the_first_anext(self) -> None:
        engine = await started(ScriptedEngine("engine", script=[QueueFull("Full.")]))
        with pytest.raises(QueueFull):
            await anext(engine.generate(REQUEST, Context()))

    async def test_a_stream_error_comes_after_the_events_before_it(self) -> None:
        engine = await started(ScriptedEngine("engine", script=["a", InstanceLost("Gone.")]))
        events: list[Event] = []
        with pytest.raises(InstanceLost):
            async for event in engine.generate(REQUEST, Context()):
                events.append(event)  # noqa: PERF401 - what came before the error matters
        assert len(events) == 2

    async def test_closing_the_iterator_kills(self) -> None:
        engine = await started(ScriptedEngine("engine", script=["a", "b", "c", 3600.0]))
        context = Context()
        events = engine.generate(REQUEST, context)
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        (play,) = engine.plays
        assert isinstance(play.outcome, Cancelled)
        assert not engine.active
        assert not context.is_stopped, "the caller's own context is not the engine's to kill"

    async def test_a_forgotten_iterator_is_killed_by_the_garbage_collector(self) -> None:
        engine = await started(ScriptedEngine("engine", script=["a", 3600.0]))
        events = engine.generate(REQUEST, Context())
        await anext(events)
        del events
        gc.collect()
        await eventually(lambda: not engine.active)

    async def test_a_parent_reaches_through(self) -> None:
        engine = await started(ScriptedEngine("engine", script=["a", 3600.0]))
        context = Context()
        events = engine.generate(REQUEST, context)
        await anext(events)
        context.stop()
        last = [event async for event in events][-1]
        assert isinstance(last, Finished) and last.reason == "cancelled"


class TestMailbox:
    async def test_it_gives_what_came_before_the_error_first(self) -> None:
        mailbox = Mailbox()
        mailbox.emit(STARTED)
        mailbox.fail(InstanceLost("Gone."))
        assert await mailbox.get() == STARTED
        for _ in range(2):
            with pytest.raises(InstanceLost):
                await mailbox.get()

    async def test_it_wakes_its_reader(self) -> None:
        mailbox = Mailbox()
        reading = asyncio.ensure_future(mailbox.get())
        await asyncio.sleep(0)
        mailbox.emit(STARTED)
        mailbox.emit(FINISHED)
        assert await reading == STARTED
        assert await mailbox.get() == FINISHED

    async def test_a_reader_that_was_cancelled_loses_nothing(self) -> None:
        mailbox = Mailbox()
        reading = asyncio.ensure_future(mailbox.get())
        await asyncio.sleep(0)
        reading.cancel()
        mailbox.emit(STARTED)
        await asyncio.wait((reading,))
        assert await mailbox.get() == STARTED


async def test_what_an_engine_does_not_have_is_unsupported() -> None:
    with pytest.raises(PenstockError, match="embeddings"):
        await Pulled().embed(EmbedRequest(model="model", inputs=["a"]), Context())


async def test_collector_and_collect_agree() -> None:
    engine = await started(ScriptedEngine("engine", script=["a", "b"]))
    sink = Collector()
    accepts: Sink = sink
    await engine.submit(REQUEST, Context(), accepts)
    assert await sink.completion == await collect(engine.generate(REQUEST, Context()))
