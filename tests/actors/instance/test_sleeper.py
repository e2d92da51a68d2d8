"""An instance that sleeps, around a simulated engine, which says so when it gets work in its sleep."""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actors.channel import frames as topics
from actors.channel.frames import ENGINE_DIED
from actors.channel.open_stream import QUEUED_PULSES
from actors.directory.known_instance import Instance, InstanceState
from actors.instance.engine_host import EngineHost
from actors.settings import AdmissionSettings, ChannelSettings, PatienceSettings, SleepSettings
from engines.call_requests import EmbedRequest, TokenizeRequest
from engines.completion import collect
from engines.context import Context
from engines.errors import Cancelled, Draining, EngineDead, InstanceLost
from engines.events import Finished
from engines.prefix_chunks import SentChain, pack, unpack
from engines.registry import EngineSpec
from engines.simulated.engine import SimulatedEngine
from tests.actors.channel_reader import Reader, eventually, request, until
from tests.actors.conftest import Start
from tests.actors.listening import Heard

HEARTBEAT_S = 0.02
LONG_S = 30.0
"""Longer than any test waits."""

Booted = Callable[..., Any]


@pytest.fixture
async def booted() -> AsyncIterator[Booted]:
    """Boots an instance whose engine has these options, and sleeps after a tenth of a second."""
    made: list[EngineHost] = []

    async def boot(
        timeout_s: float = LONG_S, heartbeat_s: float = HEARTBEAT_S, after_s: float = 0.1, **options: Any
    ) -> EngineHost:
        spec = EngineSpec(kind="simulated", model="m", options={"speed": "instant", **options}, sleeps=True)
        channel = ChannelSettings(heartbeat_s=heartbeat_s, silence_s=60.0)
        sleep = SleepSettings(after_s=after_s, timeout_s=timeout_s)
        host = EngineHost(Instance("i-0", "m"), spec, AdmissionSettings(), channel, lambda: None, sleep)
        made.append(host)
        await host.boot()
        return host

    yield boot
    for host in made:
        await host.stop(1.0)


async def asleep(host: EngineHost) -> EngineHost:
    await until(lambda: host.load().is_asleep)
    return host


def wakes(host: EngineHost, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When its engine was woken, from now on."""
    times: list[float] = []
    wake = SimulatedEngine.wake

    async def counted(engine: SimulatedEngine) -> None:
        times.append(time.monotonic())
        await wake(engine)

    monkeypatch.setattr(SimulatedEngine, "wake", counted)
    return times


async def test_an_instance_without_work_sleeps_and_its_next_request_wakes_it(booted: Booted) -> None:
    host = await booted(wake_s=0.1)
    assert not host.load().is_asleep
    assert host.load().wake_s == 3.0  # Nobody knows better before the first time.
    await asleep(host)
    assert host.describe().load.is_asleep and host.state is InstanceState.READY
    reader = Reader(host)
    await reader.is_open()
    assert reader.frames[0].load.is_asleep
    reader.submit(request("count from 1 to 3"))
    assert isinstance(await reader.end(1), Finished)
    assert reader.text(1) == "1 2 3"
    assert not reader.frames[-1].load.is_asleep
    assert 0.1 <= host.load().wake_s < 2.0
    await asleep(host)
    reader.close()


@pytest.mark.parametrize(
    "options", [{"faults": {"hang": "stay"}}, {"speed": 1.0, "step_time": {"base_s": 0.05}}], ids=["silent", "speaking"]
)
async def test_an_instance_with_work_stays_awake_whether_that_says_anything_or_not(
    booted: Booted, options: dict[str, Any]
) -> None:
    host = await booted(**options)
    reader = Reader(host)
    await reader.is_open()
    reader.submit(request("stay awake", sampling={"ignore_eos": True, "max_tokens": 1000}))
    await reader.has_started(1)
    began = len(reader.pulses)
    await until(lambda: len(reader.pulses) > began + 20)
    assert not any(frame.load.is_asleep for frame in reader.frames)
    reader.close()


async def test_requests_shorter_than_a_heartbeat_keep_it_awake_as_well(booted: Booted) -> None:
    host = await booted(heartbeat_s=0.3, after_s=0.5)
    reader = Reader(host)
    await reader.is_open()
    began_s = time.monotonic()
    for number in itertools.count(1):
        await until(lambda due_s=began_s + 0.1 * number: time.monotonic() >= due_s)
        reader.submit(request("count from 1 to 3"), first=number)
        assert isinstance(await reader.end(number), Finished)
        assert not host.load().is_asleep
        if time.monotonic() > began_s + 1.5:
            break
    reader.close()


async def test_canaries_do_not_keep_it_awake(booted: Booted) -> None:
    host = await booted()
    steps = host.engine.steps
    await eventually(lambda: checked(host))
    assert host.engine.steps > steps


async def checked(host: EngineHost) -> bool:
    await host.check_health(0.0, 5.0, LONG_S)
    return host.load().is_asleep


async def test_what_comes_while_it_falls_asleep_is_answered_once_it_was_woken(
    booted: Booted, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await booted(sleep_s=0.3, wake_s=0.1)
    woken = wakes(host, monkeypatch)
    reader = Reader(host)
    await reader.is_open()
    await asleep(host)  # It begins to.
    reader.submit(request("count from 1 to 3"))
    assert isinstance(await reader.end(1), Finished)
    assert reader.text(1) == "1 2 3" and len(woken) == 1
    reader.close()


async def test_fifty_at_once_wake_it_once_and_all_are_answered(booted: Booted, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await asleep(await booted(wake_s=0.2))
    woken = wakes(host, monkeypatch)
    reader = Reader(host)
    await reader.is_open()
    reader.submit(*(request(f"count from {n} to {n + 2}") for n in range(50)))
    for n in range(50):
        assert isinstance(await reader.end(n + 1), Finished)
        assert reader.text(n + 1) == f"{n} {n + 1} {n + 2}"
    assert len(woken) == 1
    reader.close()


async def test_while_it_wakes_its_streams_wait_and_nothing_hangs(booted: Booted) -> None:
    host = await asleep(await booted(wake_s=1.0))
    reader = Reader(host)
    await reader.is_open()
    reader.submit(request("count from 1 to 3"))
    await until(lambda: any(pulse.streams for pulse in reader.pulses))
    seen = [pulse for pulse in reader.pulses if pulse.streams]
    # Which resets what routers count against a stream; and an engine without work owes no step.
    assert all(pulse.streams == [(1, 0, False)] and not pulse.is_busy for pulse in seen)
    await host.check_health(0.0, 5.0, HEARTBEAT_S)
    assert isinstance(await reader.end(1), Finished)
    reader.close()


async def test_a_canary_neither_wakes_it_nor_finds_it_hanging(booted: Booted, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await asleep(await booted(sleep_s=0.1, wake_s=None))
    woken, steps = wakes(host, monkeypatch), host.engine.steps
    for _ in range(5):
        await host.check_health(0.0, 0.2, HEARTBEAT_S)
    assert (host.engine.steps, woken, host.load().is_asleep) == (steps, [], True)


async def test_a_request_that_left_before_any_step_is_not_held_against_the_engine_after_its_sleep(
    booted: Booted,
) -> None:
    host = await booted(faults={"hang": "stay"})
    reader = Reader(host)
    await reader.is_open()
    reader.submit(request("stay"))
    await until(lambda: host._steps.stalled_s > 0)
    reader.cancel(1, kill=True)
    await asleep(host)
    await until(lambda: host._steps.stalled_s == 0)
    reader.close()


async def test_it_does_not_fall_asleep_while_a_canary_runs(booted: Booted) -> None:
    host = await booted(speed=1.0, step_time={"base_s": 0.5})
    await host.check_health(0.0, 5.0, LONG_S)
    assert host.engine.steps and not host.load().is_asleep
    await asleep(host)


async def test_vectors_wake_it_and_tokenizing_does_not(booted: Booted, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await asleep(await booted(wake_s=0.1))
    woken = wakes(host, monkeypatch)
    assert (await host.call(TokenizeRequest(model="m", prompt="hi"))).token_ids
    assert not woken and host.load().is_asleep
    assert (await host.call(EmbedRequest(model="m", inputs=["hi"]))).floats(0)
    assert len(woken) == 1 and not host.load().is_asleep


async def test_who_is_cancelled_while_it_wakes_hears_it_at_once_and_the_others_go_on(booted: Booted) -> None:
    host = await asleep(await booted(wake_s=1.0))
    reader = Reader(host)
    await reader.is_open()
    reader.submit(*[request("count from 1 to 3")] * 3)
    vectors = asyncio.create_task(host.call(EmbedRequest(model="m", inputs=["hi"])))
    await until(lambda: any(len(pulse.streams) == 3 for pulse in reader.pulses))
    reader.cancel(1, kill=True)
    reader.cancel(2, kill=False)
    vectors.cancel()
    assert isinstance(await reader.end(1), Cancelled)
    end = await reader.end(2)
    assert isinstance(end, Finished) and end.reason == "cancelled"
    await asyncio.wait({vectors})
    assert vectors.cancelled() and host.load().is_asleep
    assert isinstance(await reader.end(3), Finished)
    assert (host.gate.running, reader.text(3)) == (0, "1 2 3")
    reader.close()


async def test_it_wakes_for_nobody_and_sleeps_again_where_all_have_gone(booted: Booted) -> None:
    host = await asleep(await booted(wake_s=0.1))
    reader = Reader(host)
    await reader.is_open()
    reader.submit(request())
    await until(lambda: any(pulse.streams for pulse in reader.pulses))
    reader.cancel(1, kill=True)
    await until(lambda: not host.load().is_asleep)
    await asleep(host)
    reader.close()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"wake_fails": True, "wake_s": 0.2}, "did not wake: EngineFailed"),
        ({"wake_s": None, "timeout_s": 0.2}, "did not wake: within 0.2 s"),
        ({"sleep_s": 60, "timeout_s": 0.2}, "did not fall asleep: within 0.2 s"),
    ],
)
async def test_an_engine_that_does_not_wake_is_dead_and_what_waited_is_refused_before_that(
    booted: Booted, options: dict[str, Any], why: str
) -> None:
    host = await booted(**options)
    reader = Reader(host)
    await reader.is_open()
    await asleep(host)
    reader.submit(request(), request())
    vectors = asyncio.create_task(host.call(EmbedRequest(model="m", inputs=["hi"])))
    # As refusals and not as losses: an engine does not die of what it has not seen.
    assert isinstance(await reader.end(1), Draining) and isinstance(await reader.end(2), Draining)
    with pytest.raises(Draining):
        await vectors
    await until(lambda: ENGINE_DIED in [news.topic for news in reader.news])
    told = [at for at, frame in enumerate(reader.frames) for news in frame.news if news.topic == ENGINE_DIED]
    refused = [at for at, frame in enumerate(reader.frames) for _, item in frame.entries if isinstance(item, Draining)]
    assert max(refused) <= told[0]
    assert host.state is InstanceState.GONE and why in host.describe().detail
    with pytest.raises(EngineDead, match="did not"):
        await host.check_health(30.0, 1.0, 30.0)
    reader.submit(request(), first=3)
    assert isinstance(await reader.end(3), InstanceLost)
    reader.close()


async def test_one_that_drains_asleep_ends_at_once_and_is_not_woken(
    booted: Booted, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await asleep(await booted(wake_s=None))
    woken = wakes(host, monkeypatch)
    async with asyncio.timeout(5.0):
        await host.drain(LONG_S)
        await host.stop(LONG_S)
    assert not woken and host.state is InstanceState.GONE


async def test_one_that_drains_while_it_wakes_finishes_what_it_was_woken_for(booted: Booted) -> None:
    host = await asleep(await booted(wake_s=0.3))
    reader = Reader(host)
    await reader.is_open()
    reader.submit(request("count from 1 to 3"))
    await until(lambda: any(pulse.streams for pulse in reader.pulses))
    await host.drain(LONG_S)
    assert isinstance(await reader.end(1), Finished)
    assert reader.text(1) == "1 2 3"
    reader.close()


async def test_one_that_is_stopped_while_it_wakes_hands_over_what_it_was_woken_for(booted: Booted) -> None:
    host = await asleep(await booted(wake_s=None))
    reader = Reader(host)
    await reader.is_open()
    reader.submit(request())
    vectors = asyncio.create_task(host.call(EmbedRequest(model="m", inputs=["hi"])))
    await until(lambda: any(pulse.streams for pulse in reader.pulses))
    async with asyncio.timeout(10.0):
        await host.stop(LONG_S)
        assert isinstance(await reader.end(1), InstanceLost)
        with pytest.raises(Draining):
            await vectors


def known(reader: Reader) -> set[int]:
    """What a router takes for cached, by what it was told."""
    cached: set[int] = set()
    for news in reader.news:
        match news.topic:
            case topics.CHUNKS:
                _, now, _, gone = news.body
                cached = (cached | set(unpack(now))) - (set(unpack(gone)) - set(unpack(now)))
            case topics.ALL_CHUNKS:
                cached = set(unpack(news.body[1]))
            case topics.PREFIXES:
                cached |= set(unpack(news.body[0]))
            case topics.ALL_PREFIXES:
                cached = set(unpack(news.body[0]))
    return cached


@pytest.mark.parametrize("says", [True, False])
async def test_what_it_had_cached_is_gone_and_routers_hear_of_it(booted: Booted, says: bool) -> None:
    host = await booted(prefix_caching=says)
    sender, reader = Reader(host), Reader(host, "other")
    await sender.is_open()
    await reader.is_open()
    prompt = "a river runs to the sea " * 20
    sender.submit(request(prompt, prefixes=SentChain(pack([1, 2]), pack([100, 400]), len(prompt))))
    await sender.end(1)
    await until(lambda: known(reader) == {1, 2})
    await asleep(host)
    await until(lambda: not known(reader))
    late = Reader(host, "late")
    await late.is_open()
    assert not known(late)
    for one in (sender, reader, late):
        one.close()


async def test_to_a_router_waking_is_no_hang_however_long_and_who_waits_for_it_is_suspect_of_no_death(
    start: Start,
) -> None:
    heard, patience = Heard(), PatienceSettings(stall_s=0.6)
    spec = EngineSpec(kind="simulated", model="m", options={"speed": "instant", "wake_s": 2.5}, sleeps=True)
    sleep = SleepSettings(after_s=0.2)
    instance, egress = await start([], listener=heard, patience=patience, engine=spec, sleep=sleep)
    await until(lambda: egress.reported.is_asleep)
    completion = await collect(egress.generate(request("count from 1 to 3"), Context()))
    assert (completion.text, heard.losses, heard.stalls) == ("1 2 3", [], [])
    await until(lambda: egress.reported.is_asleep)
    asked = asyncio.create_task(collect(egress.generate(request("count from 1 to 3"), Context())))
    await until(lambda: any(stream.queued_pulses >= QUEUED_PULSES for stream in egress._streams.values()))
    os.kill(instance.pid, signal.SIGKILL)
    with pytest.raises(InstanceLost):
        await asked
    assert [suspects for _, suspects in heard.losses] == [[]]
