import asyncio
import pickle

import pytest

from actors.instance.engine_host import EngineHost
from actors.settings import ChannelSettings
from engines.context import Context
from engines.errors import Cancelled, EngineFailed
from engines.events import Event, Finished, TextDelta
from engines.sink import Mailbox
from tests.actors.channel.conftest import Open
from tests.actors.channel_reader import Reader, request, until

HANGING = ["one", {"hang": True}]


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


async def test_a_request_that_cannot_be_read_fails_alone(opened: Open) -> None:
    _, reader = await opened([{"echo": True}])
    reader.send(1, ("r1", b"no pickle", ()))
    reader.submit(request("fine"), first=2)
    assert isinstance(await reader.end(1), EngineFailed)
    await reader.end(2)
    assert reader.text(2) == "fine"


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
