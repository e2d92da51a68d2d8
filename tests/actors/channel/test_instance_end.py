import asyncio
import pickle
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actors.instance.engine_host import EngineHost
from actors.settings import AdmissionSettings, ChannelSettings
from engines.context import Context
from engines.errors import Cancelled, EngineFailed, InvalidRequest, PenstockError, QueueFull, QueueTimeout
from engines.events import Event, Finished, Started, TextDelta, Usage
from engines.garbage import CollectorPaused
from engines.requests import GenerateRequest, Sampling
from engines.sink import Mailbox, Sink
from tests.actors.channel_reader import Reader, host, request, until

HANGING = ["one", {"hang": True}]

Open = Callable[..., Any]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Boots a host with this script and opens a channel to it."""
    made: list[tuple[EngineHost, Reader]] = []

    async def open_to(script: list[Any], **options: Any) -> tuple[EngineHost, Reader]:
        instance = host(script, **options)
        await instance.boot()
        reader = Reader(instance)
        made.append((instance, reader))
        await reader.is_open()
        return instance, reader

    yield open_to
    for instance, reader in made:
        await instance.stop(1.0)
        reader.close()


async def own_events(instance: EngineHost, prompt: str) -> list[Event]:
    """What the engine itself says to a prompt."""
    mailbox = Mailbox()
    await instance.engine.submit(request(prompt), Context(), mailbox)
    events = [await mailbox.get()]
    while not isinstance(events[-1], Finished):
        events.append(await mailbox.get())
    return events


async def test_the_channel_says_what_the_engine_says(opened: Open) -> None:
    instance, reader = await opened([{"echo": True}])
    reader.submit(request("a b c"), request("d e"))
    await reader.end(1)
    await reader.end(2)
    assert reader.said(1) == await own_events(instance, "a b c")
    assert reader.said(2) == await own_events(instance, "d e")


async def test_what_was_asked_is_freed_with_its_answer_without_the_collector(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, reader = await opened([{"echo": True}])
    asked: list[weakref.ref[GenerateRequest]] = []

    async def submit(request: GenerateRequest, context: Context, sink: Sink) -> None:
        asked.append(weakref.ref(request))
        sink.emit(Started("demo-0", "m"))
        sink.emit(Finished(("stop",), Usage(), "demo-0"))

    monkeypatch.setattr(instance.engine, "submit", submit)
    with CollectorPaused():
        reader.submit(request("a b c"))
        await reader.end(1)
        await until(lambda: asked[0]() is None)


async def test_a_setup_error_comes_back_alone(opened: Open) -> None:
    instance, reader = await opened([{"error": "InvalidRequest", "message": "no", "fields": {"param": "prompt"}}])
    reader.submit(request())
    error = await reader.end(1)
    assert reader.said(1) == [InvalidRequest("no", param="prompt", instance="demo-0")]
    assert isinstance(error, PenstockError)
    assert instance.gate.running == 0


async def test_a_request_that_cannot_be_read_fails_alone(opened: Open) -> None:
    _, reader = await opened([{"echo": True}])
    reader.send(1, ("r1", b"no pickle", ()))
    reader.submit(request("fine"), first=2)
    assert isinstance(await reader.end(1), EngineFailed)
    await reader.end(2)
    assert reader.text(2) == "fine"


async def test_killing_frees_the_slot_at_once(opened: Open) -> None:
    instance, reader = await opened(HANGING)
    reader.submit(request())
    await reader.has_started(1)
    reader.cancel(1, kill=True)
    assert (instance.gate.running, instance.engine.load().running) == (0, 0)
    assert isinstance(await reader.end(1), Cancelled)


async def test_stopping_ends_with_finished(opened: Open) -> None:
    _, reader = await opened(HANGING)
    reader.submit(request())
    await reader.has_started(1)
    reader.cancel(1, kill=False)
    end = await reader.end(1)
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"


async def test_a_queued_request_has_not_started_and_one_too_many_is_refused(opened: Open) -> None:
    instance, reader = await opened(HANGING, admission=AdmissionSettings(max_running=1, max_queued=1))
    reader.submit(request(), request(), request())
    assert isinstance(await reader.end(3), QueueFull)
    assert reader.said(2) == []
    await until(lambda: reader.frames[-1].load.queued == 1)
    reader.cancel(1, kill=True)
    await reader.has_started(2)
    assert (instance.gate.running, instance.gate.queued) == (1, 0)


async def test_every_choice_counts_at_the_gate_and_in_the_load(opened: Open) -> None:
    instance, reader = await opened(HANGING, admission=AdmissionSettings(max_running=8))
    reader.submit(request(sampling=Sampling(n=6)), request(sampling=Sampling(n=128)), request())
    await reader.has_started(1)
    await reader.has_started(3)
    assert (instance.load().running, instance.load().queued) == (7, 128)
    reader.cancel(1, kill=True)
    await reader.has_started(2)
    assert (instance.load().running, instance.load().queued) == (129, 0)


async def test_a_request_that_waits_at_the_gate_for_too_long_is_given_up(opened: Open) -> None:
    instance, reader = await opened(
        HANGING,
        admission=AdmissionSettings(max_running=1, queue_timeout_s=0.1),
        channel=ChannelSettings(heartbeat_s=0.02),
    )
    reader.submit(request(), request())
    error = await reader.end(2)
    assert isinstance(error, QueueTimeout)
    assert (error.status, error.instance, error.retry_after_s) == (429, "demo-0", 1.0)
    assert (instance.gate.running, instance.gate.queued) == (1, 0)
    assert not reader.is_over(1)


@pytest.mark.parametrize("fails", [True, False])
async def test_what_fails_at_once_does_not_count_as_service_time(opened: Open, fails: bool) -> None:
    failure = [{"error": "InvalidRequest", "message": "no"}]
    instance, reader = await opened(failure if fails else [{"echo": True}])
    for number in range(1, 4):
        reader.submit(request("a"), first=number)
        await reader.end(number)
    # 1 s is what is said as long as nothing is known.
    assert (instance.gate.retry_after_s() == 1.0) == fails


@pytest.mark.parametrize("kill", [False, True])
async def test_a_queued_request_can_be_cancelled(opened: Open, kill: bool) -> None:
    instance, reader = await opened(HANGING, admission=AdmissionSettings(max_running=1))
    reader.submit(request(), request())
    reader.cancel(2, kill=kill)
    assert instance.gate.queued == 0
    end = await reader.end(2)
    if kill:
        assert reader.said(2) == [Cancelled("The request was cancelled.", instance="demo-0")]
    else:
        assert [type(item) for item in reader.said(2)] == [Started, Finished]
        assert isinstance(end, Finished)
        assert end.reasons == ("cancelled",)


async def test_a_silent_channel_is_closed_and_its_requests_killed(opened: Open) -> None:
    instance, reader = await opened(HANGING, channel=ChannelSettings(heartbeat_s=0.02, silence_s=0.2))
    reader.submit(request(), request())
    await until(lambda: instance.gate.running == 2)
    reader.acknowledges = False
    await until(lambda: instance.gate.running == 0)
    await until(lambda: reader.lost is not None)
    assert instance.engine.load().running == 0


async def test_a_kill_that_overtakes_its_submission_is_heard(opened: Open) -> None:
    instance, reader = await opened(HANGING)
    instance.send("c", [(1, 1, "kill")])
    instance.send("c", [(1, 0, ("r1", pickle.dumps(request()), ()))])
    assert isinstance(await reader.end(1), Cancelled)
    assert instance.gate.running == 0


async def test_a_channel_that_lost_a_message_is_closed(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.channel.instance_end._LOST_S", 0.2)
    instance, reader = await opened(HANGING, channel=ChannelSettings(heartbeat_s=0.02, silence_s=60.0))
    reader.submit(request(), first=1)
    await reader.has_started(1)
    reader.submit(request(), first=3)
    await until(lambda: reader.lost is not None)
    assert instance.gate.running == 0


async def test_acknowledgements_alone_keep_a_channel_open(opened: Open) -> None:
    instance, reader = await opened(HANGING, channel=ChannelSettings(heartbeat_s=0.02, silence_s=0.2))
    reader.submit(request())
    await until(lambda: len(reader.frames) > 30)
    assert (instance.gate.running, reader.lost) == (1, None)


async def test_a_channel_renews_its_call_with_nothing_lost_or_repeated(opened: Open) -> None:
    settings = ChannelSettings(rotate_after=16, heartbeat_s=1.0, pace_s=0)
    _, reader = await opened([{"count_from": 1, "to": 200}], channel=settings)
    reader.submit(request(), request())
    await reader.end(1)
    await reader.end(2)
    assert reader.text(1) == reader.text(2) == " ".join(map(str, range(1, 201)))
    assert reader.calls > 200 // 16


async def test_a_slow_reader_gets_everything_merged(opened: Open) -> None:
    settings = ChannelSettings(window=2, heartbeat_s=0.05, silence_s=60.0, pace_s=0)
    instance, reader = await opened([{"say": "x", "times": 3000}], channel=settings)
    reader.acknowledges = False
    reader.submit(request())
    await until(lambda: instance.gate.running == 0)
    sent = len(reader.frames)
    assert sent <= 3
    reader.acknowledges = True
    instance.acknowledge("c", sent)
    await reader.end(1)
    assert reader.text(1) == "x" * 3000
    assert len([item for item in reader.said(1) if isinstance(item, TextDelta)]) <= 4


async def test_a_channel_cannot_be_continued_from_elsewhere(opened: Open) -> None:
    instance, reader = await opened([{"echo": True}])
    unknown = Reader(instance, "unknown")
    unknown.frames = list(reader.frames)
    await until(lambda: unknown.lost is not None)
    second = Reader(instance)
    await until(lambda: second.lost is not None)
    assert reader.lost is None


async def test_a_closed_channel_kills_its_requests_and_leaves_others_alone(opened: Open) -> None:
    instance, reader = await opened(HANGING)
    other = Reader(instance, "other")
    await other.is_open()
    reader.submit(request())
    other.submit(request())
    await other.has_started(1)
    instance.close("c")
    await until(lambda: reader.lost is not None)
    assert instance.engine.load().running == 1
    other.close()


async def test_an_idle_channel_still_carries_the_load(opened: Open) -> None:
    instance, reader = await opened(HANGING)
    other = Reader(instance, "other")
    await other.is_open()
    reader.submit(request(), request())
    await until(lambda: other.frames[-1].load.running == 2)
    await asyncio.sleep(0)
    other.close()


async def test_an_instance_tries_one_request_alone_at_a_time_whichever_router_sends_it(opened: Open) -> None:
    instance, reader = await opened(HANGING)
    other = Reader(instance, "other")
    await other.is_open()
    reader.submit(request(alone=True), request())
    await reader.has_started(1)
    await reader.has_started(2)
    other.submit(request(alone=True))
    assert isinstance(await other.end(1), QueueFull)
    reader.cancel(1, kill=True)
    other.submit(request(alone=True), first=2)
    await other.has_started(2)
    other.close()
