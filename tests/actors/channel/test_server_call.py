import weakref

import pytest

from actors.channel.frames import TRIED
from actors.settings import AdmissionSettings, ChannelSettings
from engines.context import Context
from engines.errors import Cancelled, InvalidRequest, PenstockError, QueueFull, QueueTimeout
from engines.events import Finished, Started, Usage
from engines.garbage import CollectorPaused
from engines.requests import GenerateRequest, Sampling
from engines.sink import Sink
from tests.actors.channel.conftest import Open
from tests.actors.channel_reader import Reader, request, until

HANGING = ["one", {"hang": True}]


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


async def test_a_trial_begins_when_nobody_is_beside_it_who_has_got_nothing_and_others_wait_for_it(opened: Open) -> None:
    instance, reader = await opened([{"hang": True}])
    other = Reader(instance, "other")
    await other.is_open()
    other.submit(request())
    await other.has_started(1)
    reader.submit(request(alone=True))
    await until(lambda: reader.pulses and reader.pulses[-1].streams == [(1, 0, False)])
    assert not reader.said(1)
    other.cancel(1, kill=True)
    await reader.has_started(1)
    assert [(news.topic, news.body) for news in reader.news] == [(TRIED, 1)]
    other.submit(request(), first=2)
    await until(lambda: other.pulses and other.pulses[-1].streams == [(2, 0, False)])
    assert not other.said(2)
    reader.cancel(1, kill=True)
    await other.has_started(2)
    other.close()


async def test_others_go_on_once_a_trial_has_a_token(opened: Open) -> None:
    instance, reader = await opened(HANGING)
    reader.submit(request(alone=True))
    await until(lambda: reader.text(1))
    other = Reader(instance, "other")
    await other.is_open()
    other.submit(request())
    await until(lambda: other.text(1))
    other.close()


async def test_a_trial_begins_once_its_router_knows(opened: Open) -> None:
    _, reader = await opened(HANGING)
    reader.acknowledges = False
    reader.submit(request(alone=True))
    await until(lambda: reader.pulses and reader.pulses[-1].streams == [(1, 0, False)])
    assert [news.topic for news in reader.news] == [TRIED] and not reader.said(1)
    reader.acknowledges = True
    await reader.has_started(1)


async def test_a_trial_does_not_wait_for_tokens_that_are_hidden(opened: Open) -> None:
    _, reader = await opened([{"work": 10_000, "every_s": 0.01}])
    reader.submit(request())
    await reader.has_started(1)
    reader.submit(request(alone=True), first=2)
    await reader.has_started(2)
    assert reader.text(1) == ""


async def test_a_trial_that_finds_no_moment_goes_elsewhere_and_others_go_on(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.channel.server_call._TRIAL_WAIT_S", 0.1)
    _, reader = await opened([{"hang": True}])
    reader.submit(request())
    await reader.has_started(1)
    reader.submit(request(alone=True), request(), first=2)
    assert isinstance(await reader.end(2), QueueFull)
    await reader.has_started(3)
