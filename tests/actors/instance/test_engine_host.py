import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actors.channel.frames import (
    ALL_CHUNKS,
    ALL_PREFIXES,
    CHUNKS,
    DRAINING,
    ENGINE_DIED,
    PREFIXES,
    SESSIONS,
    News,
)
from actors.directory.known_instance import Instance, InstanceState
from actors.instance.engine_host import EngineHost
from actors.settings import AdmissionSettings, ChannelSettings, LaneSettings
from engines.adapters.adapter import Adapter
from engines.cached_chunks import CachedChunks
from engines.call_requests import Embeddings, EmbedRequest, TokenizeRequest
from engines.context import Context
from engines.contract import Load
from engines.errors import (
    Draining,
    EngineDead,
    EngineFailed,
    InstanceLost,
    InvalidRequest,
    NotReady,
    PenstockError,
    QueueFull,
    RequestTooLarge,
    Timeout,
)
from engines.events import Finished, TextDelta
from engines.prefix_chunks import SentChain, pack, unpack
from engines.registry import EngineSpec
from engines.requests import Session
from engines.scripted.engine import ScriptedEngine
from tests.actors.channel_reader import Reader, eventually, host, request, until

HANGING = ["one", {"hang": True}]

Booted = Callable[..., Any]


@pytest.fixture
async def booted() -> AsyncIterator[Booted]:
    """Boots a host with this script."""
    made: list[EngineHost] = []

    async def boot(script: list[Any], **options: Any) -> EngineHost:
        instance = host(script, **options)
        await instance.boot()
        made.append(instance)
        return instance

    yield boot
    for instance in made:
        await instance.stop(1.0)


async def test_an_instance_is_ready_once_its_engine_is() -> None:
    instance = host(["x"], boot_s=0.05)
    assert instance.describe().state is InstanceState.STARTING
    assert "boots" in instance.describe().detail
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request())
    assert isinstance(await reader.end(1), NotReady)
    await instance.boot()
    assert instance.describe().state is InstanceState.READY
    assert instance.describe().capabilities.resume
    reader.submit(request(), first=2)
    assert isinstance(await reader.end(2), Finished)
    await instance.stop(1.0)
    reader.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"boot_error": {"error": "EngineFailed", "message": "no GPU"}}, EngineFailed),
        ({"unknown_option": 1}, InvalidRequest),
    ],
)
async def test_an_instance_that_cannot_boot_is_gone_and_says_why(
    options: dict[str, Any], error: type[PenstockError]
) -> None:
    instance = host(["x"], **options)
    with pytest.raises(error) as raised:
        await instance.boot()
    described = instance.describe()
    assert described.state is InstanceState.GONE
    assert described.detail == raised.value.message


async def test_a_dying_engine_tells_each_router_who_only_waited(booted: Booted) -> None:
    dies = {"error": "EngineDead", "message": "gone"}
    instance = await booted([{"queue_s": 0.2}, dies], admission=AdmissionSettings(max_running=1))
    readers = [Reader(instance, "a"), Reader(instance, "b")]
    for reader, requests in zip(readers, (3, 2), strict=True):
        await reader.is_open()
        reader.submit(*[request()] * requests)
    await until(lambda: all(reader.news for reader in readers))
    assert [[news.body for news in reader.news] for reader in readers] == [[[2, 3]], [[1, 2]]]


async def test_a_dead_engine_takes_its_instance_with_it(booted: Booted) -> None:
    instance = await booted(["x", {"error": "EngineDead", "message": "out of memory"}])
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request())
    # In one word for all: to its caller each is on a lost instance, so that Migration goes on elsewhere.
    await until(lambda: [news.topic for news in reader.news] == [ENGINE_DIED])
    assert instance.describe().state is InstanceState.GONE
    assert instance.describe().detail == "out of memory"
    reader.submit(request(), first=2)
    assert isinstance(await reader.end(2), InstanceLost)
    with pytest.raises(EngineDead, match="out of memory"):
        await instance.check_health(30.0, 1.0, 30.0)
    reader.close()


async def test_draining_finishes_what_runs_and_turns_the_rest_away(booted: Booted) -> None:
    script = [{"count_from": 1, "to": 20, "every_s": 0.01}]
    instance = await booted(script, admission=AdmissionSettings(max_running=1))
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request(), request())
    await reader.has_started(1)
    await instance.drain(10.0)
    assert isinstance(await reader.end(1), Finished)
    assert isinstance(await reader.end(2), Draining)
    assert [news.topic for news in reader.news] == [DRAINING]
    assert instance.describe().state is InstanceState.DRAINING
    reader.submit(request(), first=3)
    assert isinstance(await reader.end(3), Draining)
    late = Reader(instance, "late")
    await until(lambda: [news.topic for news in late.news] == [DRAINING])
    late.close()
    reader.close()


async def test_draining_hands_over_what_does_not_finish_in_time(booted: Booted) -> None:
    instance = await booted(HANGING)
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request())
    await reader.has_started(1)
    started_s = time.monotonic()
    await instance.drain(0.05)
    assert reader.text(1) == "one"
    assert isinstance(reader.said(1)[-1], InstanceLost)
    assert instance.engine.load().running == 0
    assert time.monotonic() - started_s < 5.0
    reader.close()


async def test_an_instance_that_drains_while_it_boots_takes_no_work_when_it_has() -> None:
    instance = host(["x"], boot_s=0.2)
    booting = asyncio.ensure_future(instance.boot())
    await until(lambda: hasattr(instance, "engine"))
    reader = Reader(instance)
    await reader.is_open()
    await instance.drain(1.0)
    assert (instance.describe().state, instance.load()) == (InstanceState.DRAINING, Load())
    reader.submit(request())
    assert isinstance(await reader.end(1), Draining)
    with pytest.raises(NotReady):
        await instance.check_health(30.0, 1.0, 30.0)
    with pytest.raises(Draining):
        await instance.call(TokenizeRequest(model="m", prompt="hi"))
    await booting
    assert instance.describe().state is InstanceState.DRAINING
    await instance.check_health(0.0, 1.0, 30.0)
    reader.submit(request(), first=2)
    assert isinstance(await reader.end(2), Draining)
    await instance.stop(1.0)
    assert not instance.engine.ready
    reader.close()


async def test_draining_before_there_is_an_engine() -> None:
    instance = host(["x"], boot_s=0.1)
    await instance.drain(0.0)
    assert instance.describe().state is InstanceState.DRAINING
    await instance.boot()
    assert instance.describe().state is InstanceState.DRAINING
    await instance.stop(1.0)


@pytest.mark.parametrize("drains", [False, True])
async def test_stopping_ends_the_boot(drains: bool) -> None:
    instance = host(["x"], boot_s=60.0)
    booting = asyncio.ensure_future(instance.boot())
    await until(lambda: hasattr(instance, "engine"))
    if drains:
        await instance.drain(0.0)
    began_s = time.monotonic()
    await instance.stop(5.0)
    with pytest.raises(EngineFailed, match="stopped while it booted"):
        await booting
    assert time.monotonic() - began_s < 5.0
    assert (instance.describe().state, instance.describe().detail) == (InstanceState.GONE, "stopped")
    assert not instance.engine.ready


async def test_an_instance_that_was_stopped_does_not_boot() -> None:
    instance = host(["x"])
    await instance.stop(1.0)
    with pytest.raises(EngineFailed, match="stopped"):
        await instance.boot()
    assert instance.describe().state is InstanceState.GONE


async def test_stopping_ends_the_channels(booted: Booted) -> None:
    instance = await booted(HANGING)
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request())
    await reader.has_started(1)
    await instance.stop(1.0)
    await instance.stop(1.0)
    await until(lambda: reader.lost is not None)
    assert isinstance(reader.said(1)[-1], InstanceLost)
    assert instance.describe().state is InstanceState.GONE
    assert not instance.engine.ready


async def test_an_engine_that_was_quiet_is_asked_for_one_real_token(booted: Booted) -> None:
    instance = await booted(["tweet"])
    engine = instance.engine
    assert isinstance(engine, ScriptedEngine)
    await instance.check_health(canary_idle_s=60.0, timeout_s=5.0, stall_s=60.0)
    assert engine.requests == []
    await instance.check_health(canary_idle_s=0.0, timeout_s=5.0, stall_s=60.0)
    (canary,) = engine.requests
    assert canary.sampling.max_tokens == 1
    await instance.check_health(canary_idle_s=60.0, timeout_s=5.0, stall_s=60.0)
    assert len(engine.requests) == 1


async def test_a_quiet_engine_that_gives_no_token_hangs(booted: Booted) -> None:
    instance = await booted([{"hang": True}])
    with pytest.raises(Timeout):
        await instance.check_health(canary_idle_s=0.0, timeout_s=0.05, stall_s=60.0)
    assert instance.engine.load().running == 0


async def test_an_engine_that_works_on_long_prompts_does_not_hang() -> None:
    options = {"max_batched_tokens": 16, "context_length": 100_000}
    spec = EngineSpec(kind="simulated", model="m", options=options)
    channel = ChannelSettings(heartbeat_s=0.02)
    instance = EngineHost(Instance(id="demo-0", model="m"), spec, AdmissionSettings(), channel, lambda: None)
    await instance.boot()
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request(prompt="x" * 50_000))
    await until(lambda: instance.engine.load().running == 1)
    steps = instance.engine.steps
    assert steps is not None
    await until(lambda: (instance.engine.steps or 0) > steps + 50)
    # For as long as it steps, and nobody need ask it for a token.
    await instance.check_health(canary_idle_s=0.2, timeout_s=0.2, stall_s=0.2)
    assert not any(isinstance(event, TextDelta) for event in reader.said(1))
    assert instance.engine.load().running == 1
    await instance.stop(1.0)
    reader.close()


async def test_an_engine_that_has_work_and_takes_no_step_hangs_whoever_comes_and_goes(booted: Booted) -> None:
    instance = await booted([{"hang": True}])
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request())
    await instance.check_health(canary_idle_s=60.0, timeout_s=1.0, stall_s=0.3)
    numbers = itertools.count(2)

    async def hangs() -> bool:
        number = next(numbers)
        reader.submit(request(), first=number)
        await reader.has_started(number)
        reader.cancel(number, kill=True)
        try:
            await instance.check_health(canary_idle_s=60.0, timeout_s=1.0, stall_s=0.3)
        except Timeout as error:
            return error.phase == "stall"
        return False

    await eventually(hangs)
    # And not one by one when it is stopped: then no request would be suspect of it.
    await until(lambda: [news.topic for news in reader.news] == [ENGINE_DIED])
    reader.close()


async def test_a_hung_engine_whose_work_was_taken_away_is_found_by_its_canary(booted: Booted) -> None:
    instance = await booted([{"hang": True}])
    reader = Reader(instance)
    await reader.is_open()
    numbers = itertools.count(1)

    async def hangs() -> bool:
        # As a router does, which leaves with all of its streams, and asks now and then whether it may come back.
        number = next(numbers)
        reader.submit(request(), first=number)
        await reader.has_started(number)
        reader.cancel(number, kill=True)
        with pytest.raises(Timeout):
            await instance.check_health(canary_idle_s=0.0, timeout_s=0.05, stall_s=60.0)
        try:
            await instance.check_health(canary_idle_s=0.3, timeout_s=0.05, stall_s=60.0)
        except Timeout:
            return True
        return False

    await eventually(hangs)
    reader.close()


async def test_an_instance_says_how_far_its_engine_and_its_requests_are() -> None:
    spec = EngineSpec(kind="simulated", model="m", options={"max_batched_tokens": 16, "context_length": 100_000})
    channel = ChannelSettings(heartbeat_s=0.02)
    admission = AdmissionSettings(max_running=1)
    instance = EngineHost(Instance(id="demo-0", model="m"), spec, admission, channel, lambda: None)
    await instance.boot()
    reader = Reader(instance)
    await until(lambda: reader.pulses)
    assert not reader.pulses[-1].is_busy
    reader.submit(request(prompt="x" * 50_000), request())
    await until(lambda: reader.pulses[-1].is_busy)
    steps = reader.pulses[-1].steps
    await until(lambda: reader.pulses[-1].steps != steps)
    assert (2, 0, False) in reader.pulses[-1].streams
    await instance.stop(1.0)
    reader.close()


async def test_other_routers_hear_of_a_session_and_later_ones_too(booted: Booted) -> None:
    instance = await booted(["x"])
    sender, other = Reader(instance, "sender"), Reader(instance, "other")
    await sender.is_open()
    await other.is_open()
    sender.submit(request(session=Session(id="s")), request())
    await sender.end(1)
    await sender.end(2)
    await until(lambda: other.news)
    assert other.news == [News(SESSIONS, [("s", 0.0)])]
    await instance.call(EmbedRequest(model="m", inputs=["a"], session=Session(id="t")))
    await until(lambda: sender.news and len(other.news) == 2)
    assert sender.news == other.news[1:] == [News(SESSIONS, [("t", 0.0)])]
    late = Reader(instance, "late")
    await until(lambda: late.news)
    (news,) = late.news
    assert [session for session, _ in news.body] == ["s", "t"]
    for reader in (sender, other, late):
        reader.close()


async def test_other_routers_hear_of_what_was_sent_and_later_ones_of_all(booted: Booted) -> None:
    instance = await booted(["x"])
    sender, other = Reader(instance, "sender"), Reader(instance, "other")
    await sender.is_open()
    await other.is_open()
    sender.submit(request(prefixes=SentChain(pack([1, 2]), pack([1, 2]), 1)), request())
    await until(lambda: other.news)
    assert [(news.topic, unpack(news.body[0])) for news in other.news] == [(PREFIXES, [1, 2])]
    await sender.end(1)
    await sender.end(2)
    assert not sender.news
    late = Reader(instance, "late")
    await until(lambda: late.news)
    assert [(news.topic, unpack(news.body[0])) for news in late.news] == [(ALL_PREFIXES, [2, 1])]
    for reader in (sender, other, late):
        reader.close()


async def test_a_router_that_takes_no_frames_hears_of_all_that_was_sent_once_it_does(booted: Booted) -> None:
    instance = await booted(["x"], channel=ChannelSettings(heartbeat_s=60.0, silence_s=600.0, window=2))
    sender, other = Reader(instance, "sender"), Reader(instance, "other")
    await sender.is_open()
    await other.is_open()
    other.acknowledges = False
    for number in range(1, 20):
        sender.submit(request(prefixes=SentChain(pack([number]), pack([number]), 1)), first=number)
        await sender.end(number)
    assert len(other.frames) <= 3
    other.acknowledges = True
    instance.acknowledge("other", len(other.frames))
    sender.submit(request(prefixes=SentChain(pack([20]), pack([20]), 1)), first=20)
    await until(lambda: any(news.topic == ALL_PREFIXES for news in other.news))
    told = [unpack(news.body[0]) for news in other.news if news.topic == ALL_PREFIXES]
    assert set(range(1, 20)) <= set(told[-1])
    # What waited for it was no more than the word that it is behind.
    assert sum(news.topic == PREFIXES for news in other.news) <= 4
    sender.close()
    other.close()


async def test_the_load_says_what_prompts_are_to_be_computed_and_what_was_put_into_the_cache(booted: Booted) -> None:
    instance = await booted(HANGING, admission=AdmissionSettings(max_running=1, max_queued=1))
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request(prefill_tokens=100))
    await until(lambda: reader.text(1))
    reader.submit(request(prefill_tokens=30), request(prefill_tokens=7), first=2)
    assert isinstance(await reader.end(3), QueueFull)
    assert instance.load().queued_tokens == 30
    reader.cancel(2, kill=True)
    await reader.end(2)
    assert instance.load().queued_tokens == 0
    assert instance.load().written_tokens == 0
    reader.cancel(1, kill=False)
    await reader.end(1)
    assert instance.load().written_tokens > 0
    reader.close()


async def test_a_prompt_that_no_router_reckoned_counts_by_its_size(booted: Booted) -> None:
    instance = await booted([{"hang": True}])
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request("x" * 40_000))
    await reader.has_started(1)
    assert 10_000 < instance.load().queued_tokens < 11_000
    reader.close()


async def test_a_refused_request_binds_no_session(booted: Booted) -> None:
    instance = await booted(HANGING, admission=AdmissionSettings(max_running=1, max_queued=0))
    sender, other = Reader(instance, "sender"), Reader(instance, "other")
    await sender.is_open()
    sender.submit(request())
    await sender.has_started(1)
    sender.submit(request(session=Session(id="refused")), first=2)
    assert isinstance(await sender.end(2), QueueFull)
    sender.cancel(1, kill=True)
    sender.submit(request(session=Session(id="taken")), first=3)
    await until(lambda: other.news)
    assert other.news == [News(SESSIONS, [("taken", 0.0)])]
    sender.close()
    other.close()


ONE_AT_A_TIME = LaneSettings(running_bytes=4, queued_bytes=4, max_bytes=100, least_bytes=4)


async def test_embeddings_have_a_lane_of_their_own(booted: Booted) -> None:
    admission = AdmissionSettings(max_running=1, max_queued=0, embeddings=ONE_AT_A_TIME)
    instance = await booted(HANGING, admission=admission)
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request())
    await reader.has_started(1)
    assert len(await instance.call(EmbedRequest(model="m", inputs=["a", "b"]))) == 2
    assert instance.describe().load.running == 1
    with pytest.raises(RequestTooLarge):
        await instance.call(EmbedRequest(model="m", inputs=["a" * 60, "b" * 60]))
    reader.close()


async def test_what_is_too_much_for_the_lane_waits_or_is_refused(booted: Booted) -> None:
    instance = await booted(HANGING, admission=AdmissionSettings(embeddings=ONE_AT_A_TIME))
    held = asyncio.Event()
    answer = instance.engine.call

    async def slow(request: EmbedRequest, context: Context) -> Embeddings:
        await held.wait()
        return await answer(request, context)

    instance.engine.call = slow  # type: ignore[method-assign]
    one = EmbedRequest(model="m", inputs=["a"])
    first, second = (asyncio.ensure_future(instance.call(one)) for _ in range(2))
    await until(lambda: instance.describe().load.queued == 1)
    assert instance.describe().load.running == 1
    with pytest.raises(QueueFull):
        await instance.call(one)
    # Who waits is turned away when the instance drains; who runs may finish.
    draining = asyncio.ensure_future(instance.drain(10.0))
    with pytest.raises(Draining):
        await second
    assert not draining.done()
    held.set()
    assert len(await first) == 1
    await draining


async def test_an_embedding_that_waits_can_be_cancelled(booted: Booted) -> None:
    instance = await booted(HANGING, admission=AdmissionSettings(embeddings=ONE_AT_A_TIME))
    instance.engine.call = lambda *_: asyncio.Event().wait()  # type: ignore[assignment, method-assign]
    one = EmbedRequest(model="m", inputs=["a"])
    first, second = (asyncio.ensure_future(instance.call(one)) for _ in range(2))
    await until(lambda: instance.describe().load.queued == 1)
    second.cancel()
    await until(lambda: instance.describe().load.queued == 0)
    first.cancel()
    await until(lambda: instance.describe().load.running == 0)


async def test_tokenizing_does_not_wait_at_the_gate(booted: Booted) -> None:
    instance = await booted(HANGING, admission=AdmissionSettings(max_running=1, max_queued=0))
    reader = Reader(instance)
    await reader.is_open()
    reader.submit(request())
    await reader.has_started(1)
    tokenized = await instance.call(TokenizeRequest(model="m", prompt="hi"))
    assert tokenized.token_ids == [104, 105]
    reader.close()


async def test_says_which_adapters_it_has_loaded() -> None:
    adapters = tuple(Adapter(name=name, path=f"org/{name}") for name in ("one", "two"))
    spec = EngineSpec(kind="simulated", model="m", options={"speed": 0, "max_loras": 1}, adapters=adapters)
    instance = EngineHost(Instance("i-0", "m"), spec, AdmissionSettings(), ChannelSettings(), lambda: None)
    await instance.boot()
    assert instance.describe().capabilities.max_loras == 1
    reader = Reader(instance)
    await reader.is_open()
    for number, name in enumerate(("one", "two"), start=1):
        reader.submit(request(adapter=name), first=number)
        assert isinstance(await reader.end(number), Finished)
        assert instance.load().adapters == instance.describe().load.adapters == (name,)
        assert reader.frames[-1].load.adapters == (name,)
    await instance.stop(1.0)
    reader.close()


async def test_routers_hear_what_the_engine_has_cached_and_what_it_has_lost(
    booted: Booted, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = CachedChunks(16)
    monkeypatch.setattr(ScriptedEngine, "cached_chunks", chunks)
    instance = await booted(["x"], channel=ChannelSettings(heartbeat_s=60.0, silence_s=600.0, window=2))
    first = Reader(instance, "first")
    await until(lambda: first.news)
    blocks = [10, 20, 30]
    chunks.read(SentChain(pack([1, 2, 3]), pack([16, 32, 48]), 48), blocks, 48)
    chunks.stored(blocks[:2])
    chunks.stored(blocks[2:])
    await until(lambda: len(first.news) == 2)
    chunks.removed([30])
    await until(lambda: len(first.news) == 3)
    assert [(news.topic, news.body) for news in first.news] == [
        (ALL_CHUNKS, (0, pack([]), pack([]))),
        (CHUNKS, (1, pack([1, 2, 3]), pack([16, 32, 48]), pack([]))),
        (CHUNKS, (2, pack([]), pack([]), pack([3]))),
    ]
    late = Reader(instance, "late")
    await until(lambda: late.news)
    assert [(news.topic, news.body) for news in late.news] == [(ALL_CHUNKS, (2, pack([1, 2]), pack([16, 32])))]
    first.close()
    late.close()


async def test_what_is_cached_is_told_in_the_frame_of_the_answer_that_ends_in_the_same_turn(
    booted: Booted, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = CachedChunks(16)
    monkeypatch.setattr(ScriptedEngine, "cached_chunks", chunks)
    instance = await booted(["x"], channel=ChannelSettings(heartbeat_s=60.0, silence_s=600.0))
    reader = Reader(instance, "c")
    await until(lambda: reader.news)
    known = len(reader.frames)
    outbox = instance._channels["c"].outbox
    # Another stream has woken the channel before.
    outbox.emit_urgently(1, TextDelta("x"))
    chunks.read(SentChain(pack([1]), pack([16]), 16), [10], 16)
    chunks.stored([10])
    outbox.emit_urgently(2, TextDelta("y"))
    await until(lambda: len(reader.frames) > known)
    frame = reader.frames[known]
    assert [number for number, _ in frame.entries] == [1, 2]
    assert [(news.topic, news.body) for news in frame.news] == [(CHUNKS, (1, pack([1]), pack([16]), pack([])))]
    reader.close()


async def test_a_router_that_takes_no_frames_hears_of_all_that_is_cached_once_it_does(
    booted: Booted, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = CachedChunks(16)
    monkeypatch.setattr(ScriptedEngine, "cached_chunks", chunks)
    instance = await booted(["x"], channel=ChannelSettings(heartbeat_s=60.0, silence_s=600.0, window=2))
    reader = Reader(instance, "reader")
    await reader.is_open()
    reader.acknowledges = False
    for number in range(1, 21):
        chunks.read(SentChain(pack([number]), pack([16]), 16), [number], 16)
        chunks.stored([number])
        await asyncio.sleep(0.02)
    assert len(reader.frames) <= 3
    known = len(reader.news)
    reader.acknowledges = True
    instance.acknowledge("reader", len(reader.frames))
    chunks.removed([1])
    await until(lambda: any(news.topic == ALL_CHUNKS for news in reader.news[known:]))
    told = [news.body for news in reader.news[known:] if news.topic == ALL_CHUNKS]
    assert told[-1][0] in (20, 21)
    assert told[-1][1:] == (pack(list(range(2, 21))), pack([16] * 19))
    reader.close()
