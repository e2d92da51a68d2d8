import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import ray

from actors.channel.calls import result
from actors.channel.carriage import BY_REFERENCE_BYTES
from actors.channel.egress import Egress
from actors.channel.frames import DRAINING
from actors.directory.known_instance import Instance
from actors.settings import AdmissionSettings, ChannelSettings, PatienceSettings
from engines.attachments.attachment import Attachment
from engines.call_requests import DetokenizeRequest, EmbedRequest, TokenizeRequest
from engines.completion import Collector, collect
from engines.context import Context
from engines.errors import Cancelled, Draining, InstanceLost, InvalidRequest, PenstockError, QueueFull, Timeout
from engines.events import Event, Finished, Started
from engines.operators.fallback import Fallback
from engines.operators.link import link
from engines.operators.migration import Migration
from engines.registry import EngineSpec
from engines.requests import GenerateRequest, Resume, Sampling
from engines.scripted.engine import ScriptedEngine, ScriptedOptions
from tests.actors.channel_reader import eventually, request, spec, until
from tests.actors.conftest import BRISK, Start
from tests.actors.listening import Heard
from tests.contract.asking import Recorder

NARROW = AdmissionSettings(max_running=2, max_queued=1)
HANGING = ["one", {"hang": True}]
COUNTING = [{"count_from": 1, "to": 300, "every_s": 0.002}]
ECHO = [{"echo": True, "every_s": 0.002}]


async def read(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def has(instance: Instance, running: int, queued: int = 0) -> None:
    """Waits until the instance is so busy."""

    async def is_so() -> bool:
        load = (await instance.actor.describe.remote()).load
        return bool((load.running, load.queued) == (running, queued))

    await eventually(is_so)


async def fill(egress: Egress) -> None:
    """Takes every place that runs."""
    for _ in range(NARROW.max_running):
        await egress.submit(request(), Context(), Collector())


async def test_a_stream_through_ray_is_the_engines_own(share: Start) -> None:
    instance, egress = await share(ECHO)
    here = ScriptedEngine(instance.id, spec(ECHO), ScriptedOptions(**spec(ECHO).options))
    await here.start()
    heard = await read(egress.generate(request("a b"), Context()))
    assert heard == await read(here.generate(request("a b"), Context()))
    assert egress.in_flight == 0


async def test_two_hundred_streams_at_once_stay_apart(share: Start) -> None:
    _, egress = await share(ECHO)
    prompts = [" ".join(f"{index}.{word}" for word in range(30)) for index in range(200)]
    completions = await asyncio.gather(*[collect(egress.generate(request(p), Context())) for p in prompts])
    assert [completion.text for completion in completions] == prompts
    assert egress.in_flight == 0


async def test_a_setup_error_is_raised_by_submit(share: Start) -> None:
    instance, egress = await share([{"error": "InvalidRequest", "message": "no", "fields": {"param": "prompt"}}])
    collector = Collector()
    with pytest.raises(InvalidRequest) as raised:
        await egress.submit(request(), Context(), collector)
    assert raised.value == InvalidRequest("no", param="prompt", instance=instance.id)
    assert (collector.started, collector.completion.done(), egress.in_flight) == (None, False, 0)


async def test_the_gate_refuses_through_the_channel(share: Start) -> None:
    instance, egress = await share(HANGING, NARROW)
    await fill(egress)
    waiting = asyncio.ensure_future(egress.submit(request(), Context(), Collector()))
    await has(instance, running=2, queued=1)
    with pytest.raises(QueueFull) as raised:
        await egress.submit(request(), Context(), Collector())
    waiting.cancel()
    assert raised.value.retry_after_s is not None


async def test_killing_a_request_frees_its_slot_in_the_actor(share: Start) -> None:
    instance, egress = await share(HANGING, NARROW)
    context, collector = Context(), Collector()
    await egress.submit(request(), context, collector)
    await has(instance, running=1)
    context.kill()
    with pytest.raises(Cancelled):
        await collector.completion
    assert egress.in_flight == 0
    await has(instance, running=0)


async def test_dropping_the_iterator_kills(share: Start) -> None:
    instance, egress = await share(HANGING, NARROW)
    events = egress.generate(request(), Context())
    assert isinstance(await anext(events), Started)
    await events.aclose()
    await has(instance, running=0)


async def test_giving_up_before_the_start_frees_the_place_in_the_queue(share: Start) -> None:
    instance, egress = await share(HANGING, NARROW)
    await fill(egress)
    waiting = asyncio.ensure_future(egress.submit(request(), Context(), Collector()))
    await has(instance, running=2, queued=1)
    waiting.cancel()
    await has(instance, running=2, queued=0)
    assert egress.in_flight == 2


async def test_a_kill_does_not_overtake_its_request(start: Start) -> None:
    # Ray runs the calls of an async actor out of order.
    requests = 1000
    instance, egress = await start(HANGING, AdmissionSettings(max_running=requests))
    for _ in range(requests):
        context = Context()
        submitted = asyncio.ensure_future(egress.submit(request(), context, Collector()))
        await asyncio.sleep(0)
        context.kill()
        with pytest.raises(Cancelled):
            await submitted
    await has(instance, running=0)


async def test_stopping_ends_the_stream_politely(share: Start) -> None:
    _, egress = await share(HANGING, NARROW)
    context, collector = Context(), Collector()
    await egress.submit(request(), context, collector)
    context.stop()
    completion = await collector.completion
    assert completion.text == "one"
    assert completion.choices[0].reason == "cancelled"


async def test_a_killed_actor_loses_its_streams_at_once(start: Start) -> None:
    heard = Heard()
    instance, egress = await start(HANGING, listener=heard)
    collectors = [Collector() for _ in range(20)]
    for collector in collectors:
        await egress.submit(request(), Context(), collector)
    killed_s = time.monotonic()
    ray.kill(instance.actor)
    for collector in collectors:
        with pytest.raises(InstanceLost):
            await collector.completion
    # Milliseconds by themselves; the rest is for a machine that does something else.
    assert time.monotonic() - killed_s < 5.0
    assert (len(heard.losses), egress.in_flight, egress.ready) == (1, 0, False)
    with pytest.raises(InstanceLost):
        await egress.submit(request(), Context(), Collector())
    with pytest.raises(InstanceLost):
        await egress.embed(EmbedRequest(model="m", inputs=["a"]), Context())


async def test_an_actor_that_stands_still_is_lost(start: Start) -> None:
    heard = Heard()
    instance, egress = await start(HANGING, listener=heard)
    collector = Collector()
    await egress.submit(request(), Context(), collector)
    os.kill(instance.pid, signal.SIGSTOP)
    try:
        with pytest.raises(InstanceLost, match="silent"):
            async with asyncio.timeout(60):
                await collector.completion
    finally:
        os.kill(instance.pid, signal.SIGCONT)
    assert len(heard.losses) == 1 and not heard.deaths
    # The channel can be opened again once the actor goes on.
    await egress.start()
    assert egress.ready


IMPATIENT = PatienceSettings(stall_s=0.6)


async def test_a_stream_that_makes_no_progress_times_out_while_others_go_on(start: Start) -> None:
    heard = Heard()
    instance, egress = await start(
        [{"count_from": 1, "to": 100, "every_s": 0.03}, {"hang": True}], listener=heard, patience=IMPATIENT
    )
    hanging, going, context = Recorder(), Collector(), Context()
    await egress.submit(request(), Context(), hanging)
    await until(lambda: hanging.deltas >= 80)
    await egress.submit(request(), context, going)
    await hanging.over()
    assert isinstance(hanging.error, Timeout)
    assert (hanging.error.phase, hanging.error.instance, hanging.deltas) == ("stall", instance.id, 100)
    await has(instance, running=1)
    assert not going.completion.done() and not heard.losses
    # The instance did it once, and may do it again.
    assert heard.stalls == [hanging.error]
    context.kill()


async def test_an_engine_that_takes_no_step_is_lost_whoever_comes_and_goes(start: Start) -> None:
    heard = Heard()
    _, egress = await start([{"hang": True}], listener=heard, patience=IMPATIENT)
    first = Recorder()
    await egress.submit(request(), Context(), first)
    while first.error is None:
        context = Context()
        with suppress(InstanceLost):
            await egress.submit(request(), context, Collector())
        context.kill()
    assert isinstance(first.error, InstanceLost) and "hangs" in first.error.message
    assert len(heard.losses) == 1


async def test_a_request_that_got_nothing_from_an_instance_is_suspect_of_its_death(start: Start) -> None:
    heard = Heard()
    admission = AdmissionSettings(max_running=2)
    instance, egress = await start(HANGING, listener=heard, admission=admission)
    spoken, silent = Recorder(), Recorder()
    await egress.submit(request("spoken"), Context(), spoken)
    said_elsewhere = Resume(choices=[[ord(char) for char in "one"]])
    await egress.submit(request("silent", resume=said_elsewhere), Context(), silent)
    waiting = asyncio.ensure_future(egress.submit(request("waits"), Context(), Recorder()))
    await until(lambda: spoken.deltas)
    await has(instance, running=2, queued=1)
    # By then the instance has said who waits.
    await until(lambda: egress.is_stalled)
    ray.kill(instance.actor)
    with pytest.raises(InstanceLost):
        await waiting
    [(_, suspects)] = heard.losses
    assert heard.deaths == 1
    assert [suspect.prompt for suspect in suspects] == ["silent"]


async def test_who_leaves_the_queue_and_takes_the_engine_along_is_suspect_and_who_still_waits_is_not(
    start: Start,
) -> None:
    heard = Heard()
    _, egress = await start([{"queue_s": 2.0}, {"error": "EngineDead", "message": "gone"}], listener=heard)
    first, second = Recorder(), Recorder()
    await egress.submit(request("first"), Context(), first)
    began_s = time.monotonic()
    # By then some heartbeats have said that it waits.
    await until(lambda: egress.heard_s > began_s + 1.0)
    await egress.submit(request("second"), Context(), second)
    await second.over()
    [(_, suspects)] = heard.losses
    assert [suspect.prompt for suspect in suspects] == ["first"]


async def test_who_is_to_be_tried_alone_is_suspect_once_that_has_begun(start: Start) -> None:
    heard = Heard()
    instance, egress = await start([{"hang": True}], listener=heard)
    await egress.submit(request("before"), Context(), Recorder())
    trial = asyncio.ensure_future(egress.submit(request("trial", alone=True), Context(), Recorder()))
    await has(instance, running=2)
    ray.kill(instance.actor)
    with pytest.raises(InstanceLost):
        await trial
    assert [suspect.prompt for _, suspects in heard.losses for suspect in suspects] == ["before"]

    instance, egress = await start([{"hang": True}], listener=(heard := Heard()))
    recorder = Recorder()
    await egress.submit(request("trial", alone=True), Context(), recorder)
    ray.kill(instance.actor)
    await recorder.over()
    assert [suspect.prompt for _, suspects in heard.losses for suspect in suspects] == ["trial"]


async def test_an_engine_that_gives_a_token_has_stepped(start: Start) -> None:
    _, egress = await start(HANGING)
    await egress.submit(request(), Context(), Recorder())
    await until(lambda: egress.is_stalled)
    were_stalled: list[bool] = []
    await egress.submit(request(), Context(), Recorder(lambda _: were_stalled.append(egress.is_stalled)))
    await until(lambda: were_stalled)
    assert were_stalled == [False]


async def test_who_came_when_the_engine_took_no_step_any_more_is_no_suspect(start: Start) -> None:
    heard = Heard()
    _, egress = await start([{"hang": True}], listener=heard, patience=PatienceSettings(stall_s=2.0))
    early, late = Recorder(), Recorder()
    await egress.submit(request("early"), Context(), early)
    await until(lambda: egress.is_stalled)
    await egress.submit(request("late"), Context(), late)
    await late.over()
    [(_, suspects)] = heard.losses
    assert [suspect.prompt for suspect in suspects] == ["early"]


async def test_who_came_when_the_engine_took_no_step_is_suspect_of_its_death(start: Start) -> None:
    """It may have taken one since: only an engine that is given up for standing still has taken none."""
    heard = Heard()
    instance, egress = await start([{"hang": True}], listener=heard)
    early, late = Recorder(), Recorder()
    await egress.submit(request("early"), Context(), early)
    await until(lambda: egress.is_stalled)
    await egress.submit(request("late"), Context(), late)
    ray.kill(instance.actor)
    await late.over()
    [(_, suspects)] = heard.losses
    assert [suspect.prompt for suspect in suspects] == ["early", "late"]


async def test_a_request_whose_tokens_are_hidden_is_no_suspect(start: Start) -> None:
    heard = Heard()
    instance, egress = await start([{"work": 3}, {"hang": True}], listener=heard)
    recorder = Recorder()
    await egress.submit(request(), Context(), recorder)
    await until(lambda: egress.is_stalled)
    ray.kill(instance.actor)
    await recorder.over()
    assert [suspects for _, suspects in heard.losses] == [[]]


PATIENCE_S = 0.6
HEALTHY = {
    "hidden tokens, as of reasoning or arguments that a parser holds back": ([{"work": 40, "every_s": 0.05}, "x"], {}),
    "a place in the engine's queue": ([{"queue_s": 0.3}] * 7 + ["x"], {}),
    "a long prompt": ([], {"max_batched_tokens": 16, "context_length": 8192}),
    "a preemption": ([], {"num_blocks": 64, "context_length": 1024}),
}


@pytest.mark.parametrize(("script", "options"), HEALTHY.values(), ids=HEALTHY)
async def test_a_healthy_stream_is_never_given_up(start: Start, script: list[Any], options: dict[str, Any]) -> None:
    heard = Heard()
    engine = EngineSpec(kind="simulated", model="m", options=options) if options else None
    patience = PatienceSettings(stall_s=PATIENCE_S)
    channel = ChannelSettings(heartbeat_s=0.2, silence_s=30.0)
    _, egress = await start(script, channel=channel, listener=heard, patience=patience, engine=engine)
    prompt = "x" * 6400 if "max_batched_tokens" in options else "hi"
    long = Sampling(max_tokens=900, ignore_eos=True) if "num_blocks" in options else Sampling(max_tokens=9)
    first, second = Recorder(), Recorder()
    began_s = time.monotonic()
    for recorder in (first, second):
        await egress.submit(request(prompt, sampling=long), Context(), recorder)
    for recorder in (first, second):
        async with asyncio.timeout(60.0):
            await recorder.over()
        assert recorder.finished is not None, recorder.error
    # Each was silent for longer than a stream that makes no progress may be.
    assert time.monotonic() - began_s > 2 * PATIENCE_S
    assert not (heard.stalls or heard.losses)


async def test_a_probe_is_answered_by_a_token_or_not_at_all(start: Start) -> None:
    _, works = await start(["one"])
    await works.probe(5.0)
    _, hangs = await start([{"hang": True}])
    with pytest.raises(PenstockError):
        await hangs.probe(0.3)


class Caller:
    """A process that holds a stream."""

    async def hold(self, instance: Instance) -> None:
        self.egress = Egress(instance, BRISK)
        await self.egress.submit(request(), Context(), Collector())


async def test_a_caller_that_dies_frees_its_slots(share: Start) -> None:
    instance, egress = await share(HANGING, NARROW)
    await egress.submit(request(), Context(), Collector())
    caller: Any = ray.remote(Caller).options(num_cpus=0).remote()
    await caller.hold.remote(instance)
    await has(instance, running=2)
    ray.kill(caller)
    await has(instance, running=1)


async def test_closing_the_egress_frees_its_slots(share: Start) -> None:
    instance, egress = await share(HANGING, NARROW)
    collector = Collector()
    await egress.submit(request(), Context(), collector)
    await egress.stop()
    with pytest.raises(InstanceLost):
        await collector.completion
    await has(instance, running=0)
    with pytest.raises(InstanceLost):
        await egress.submit(request(), Context(), Collector())


async def test_renewing_the_call_loses_and_repeats_nothing(share: Start) -> None:
    _, egress = await share(COUNTING, channel=ChannelSettings(rotate_after=16, pace_s=0))
    completions = await asyncio.gather(*[collect(egress.generate(request(), Context())) for _ in range(3)])
    assert [completion.text for completion in completions] == [" ".join(map(str, range(1, 301)))] * 3


async def test_a_frame_too_large_for_a_message_arrives(share: Start) -> None:
    text = "word " * 100_000
    _, egress = await share([text, text])
    completion = await collect(egress.generate(request(), Context()))
    assert completion.text == text * 2


async def test_a_draining_instance_says_so_and_finishes_what_runs(start: Start) -> None:
    heard = Heard()
    instance, egress = await start([{"count_from": 1, "to": 50, "every_s": 0.01}], listener=heard)
    collector = Collector()
    await egress.submit(request(), Context(), collector)
    draining = asyncio.ensure_future(result(instance.actor.drain.remote(20.0), instance.id))
    await until(lambda: egress.is_draining)
    assert [item.topic for item in heard.news] == [DRAINING]
    assert not egress.ready
    with pytest.raises(Draining):
        await egress.submit(request(), Context(), Collector())
    assert (await collector.completion).choices[0].reason == "stop"
    await draining


async def test_a_sink_that_raises_takes_nobody_else_down(share: Start) -> None:
    class Broken(Collector):
        def emit(self, event: Event) -> None:
            if not isinstance(event, Started):
                raise ValueError("broken")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    _, egress = await share(ECHO)
    await egress.submit(request("a b"), Context(), Broken())
    completion = await collect(egress.generate(request("a b c"), Context()))
    assert completion.text == "a b c"
    assert (len(reported), egress.in_flight) == (1, 0)


async def test_plain_calls(share: Start) -> None:
    instance, egress = await share(ECHO)
    tokenized = await egress.tokenize(TokenizeRequest(model="m", prompt="hi"))
    assert await egress.detokenize(DetokenizeRequest(model="m", token_ids=tokenized.token_ids)) == "hi"
    embeddings = await egress.embed(EmbedRequest(model="m", inputs=["a", "b"]), Context())
    assert (len(embeddings), embeddings.engine) == (2, instance.id)
    with pytest.raises(InvalidRequest):
        await egress.detokenize(DetokenizeRequest(model="m", token_ids=[2**31 - 1]))
    await egress.check_health()


async def test_an_embedding_is_cancelled_in_the_actor(share: Start) -> None:
    instance, egress = await share(HANGING, NARROW)
    context = Context()
    long = EmbedRequest(model="m", inputs=["a"] * 2048, dimensions=50_000)
    waiting = asyncio.ensure_future(egress.embed(long, context))
    await has(instance, running=1, queued=0)
    context.kill()
    with pytest.raises(Cancelled):
        await waiting
    await has(instance, running=0, queued=0)


async def test_the_reported_load_is_the_instances(share: Start) -> None:
    _, egress = await share(HANGING, NARROW)
    await fill(egress)
    waiting = asyncio.ensure_future(egress.submit(request(), Context(), Collector()))
    await until(lambda: (egress.reported.running, egress.reported.queued) == (2, 1))
    assert egress.in_flight == 3
    waiting.cancel()


async def test_every_choice_is_in_flight(share: Start) -> None:
    _, egress = await share(HANGING)
    context = Context()
    await egress.submit(request(sampling=Sampling(n=5)), context, Collector())
    await until(lambda: (egress.in_flight, egress.reported.running) == (5, 5))
    context.kill()
    assert egress.in_flight == 0


async def test_finished_names_the_instance(share: Start) -> None:
    instance, egress = await share(ECHO)
    heard = await read(egress.generate(request(), Context()))
    assert isinstance(heard[-1], Finished)
    assert heard[-1].engine == instance.id


def attached(*sizes: int) -> GenerateRequest:
    """A request with an image of each size in bytes."""
    parts = [{"type": "image_url", "image_url": {"url": ""}} for _ in sizes]
    attachments = [Attachment("image/png", bytes([number]) * size) for number, size in enumerate(sizes)]
    messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, *parts]}]
    return GenerateRequest(model="m", messages=messages, attachments=attachments)


def named(request: GenerateRequest) -> str:
    """What an echo says to it."""
    return " ".join(["see", *(f"{one.media_type}:{one.digest}" for one in request.attachments)])


async def test_attachments_arrive_large_and_small(start: Start) -> None:
    _, egress = await start([{"echo": True}], attachments=True)
    asked = [attached(5), attached(BY_REFERENCE_BYTES), attached(7, 3 * 2**20, 9, BY_REFERENCE_BYTES - 1), attached()]
    completions = await asyncio.gather(*[collect(egress.generate(one, Context())) for one in asked])
    assert [completion.text for completion in completions] == [named(one) for one in asked]
    assert egress.in_flight == 0


async def test_a_large_attachment_is_uploaded_once_however_often_its_request_is_sent(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda data: puts.append(len(data)) or put(data))
    asked = attached(3 * 2**20)
    resumed = asked.model_copy(update={"resume": Resume(), "model": "n"})
    for _ in range(2):
        _, egress = await start([{"echo": True}], attachments=True)
        for one in (asked, resumed):
            assert (await collect(egress.generate(one, Context()))).text == named(asked)
    assert puts == [3 * 2**20]


async def test_a_request_is_small_whatever_is_attached_and_counted_while_that_is_uploaded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, egress = await start([{"echo": True}], attachments=True)
    sent: list[bytes] = []
    said = egress._say
    monkeypatch.setattr(egress, "_say", lambda *message: (sent.append(message[2][1]), said(*message)))
    asked = attached(2**20, 10)
    submitted = asyncio.ensure_future(egress.submit(asked, Context(), collector := Collector()))
    await asyncio.sleep(0)
    assert (egress.in_flight, sent) == (1, [])
    await submitted
    await collector.completion
    assert len(sent) == 1 and len(sent[0]) < 2000


async def test_a_request_that_is_killed_during_the_upload_is_not_sent(start: Start) -> None:
    _, egress = await start([{"echo": True}], attachments=True)
    context = Context()
    submitted = asyncio.ensure_future(egress.submit(attached(2**20), context, Collector()))
    await asyncio.sleep(0)
    context.kill()
    with pytest.raises(Cancelled):
        await submitted
    assert egress.in_flight == 0


async def test_what_was_uploaded_is_freed_with_its_request(start: Start) -> None:
    _, egress = await start([{"echo": True}], attachments=True)
    asked = attached(2**20)
    await collect(egress.generate(asked, Context()))
    uploaded = asked.attachments[0].stored.hex().encode()
    core = ray._private.worker.global_worker.core_worker
    assert uploaded in core.get_all_reference_counts()
    del asked

    async def is_freed() -> bool:
        return uploaded not in core.get_all_reference_counts()

    await eventually(is_freed)


async def test_a_stream_that_moves_takes_its_attachments_along(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    puts = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda data: puts.append(len(data)) or put(data))
    slowly = [{"echo": True, "every_s": 0.5}]
    first, doomed = await start(slowly, attachments=True)
    _, other = await start(slowly, attachments=True)
    recorder = Recorder(lambda deltas: os.kill(first.pid, signal.SIGKILL) if deltas == 1 else None)
    asked = attached(10, 2**20)
    await link(Migration(), Fallback("both", [doomed, other])).submit(asked, Context(), recorder)
    await recorder.over()
    assert recorder.finished is not None and recorder.finished.engine == other.name
    # What an echo says are their digests: it is the same text only if the same data came to both.
    assert recorder.text == named(asked)
    assert puts == [2**20]
