"""The far end of a channel, without Ray: reads its frames in the test's own process."""

import asyncio
import pickle
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors.channel.frames import Frame, News, Pulse, decode
from actors.channel.upstream import Message
from actors.directory.known_instance import Instance
from actors.instance.engine_host import EngineHost
from actors.settings import AdmissionSettings, ChannelSettings
from engines.errors import InstanceLost, PenstockError
from engines.events import Event, Finished, Started, TextDelta
from engines.registry import EngineSpec
from engines.requests import GenerateRequest

TIMEOUT_S = 60.0


async def until(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Waits for a condition, or fails."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        await asyncio.sleep(0.005)


async def eventually(condition: Callable[[], Awaitable[object]], timeout_s: float = TIMEOUT_S) -> None:
    """As `until`, for a condition that is awaited."""
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        await asyncio.sleep(0.02)


def request(prompt: str = "hi", **fields: Any) -> GenerateRequest:
    return GenerateRequest(model="m", prompt=prompt, **fields)


def spec(script: Sequence[Any], **options: Any) -> EngineSpec:
    return EngineSpec(kind="scripted", model="m", options={"script": list(script), **options})


def host(
    script: Sequence[Any],
    admission: AdmissionSettings | None = None,
    channel: ChannelSettings | None = None,
    **options: Any,
) -> EngineHost:
    return EngineHost(
        Instance(id="demo-0", model="m"),
        spec(script, **options),
        admission or AdmissionSettings(),
        channel or ChannelSettings(heartbeat_s=0.05, silence_s=60.0),
        lambda: None,
    )


class Reader:
    """Reads one channel. Acknowledges each frame unless `acknowledges` is false."""

    def __init__(self, host: EngineHost, id: str = "c") -> None:
        self.host = host
        self.id = id
        self.frames: list[Frame] = []
        self.items: dict[int, list[Event | PenstockError]] = {}
        self.news: list[News] = []
        self.calls = 0
        self.lost: InstanceLost | None = None
        self.pulses: list[Pulse] = []
        self._places: Counter[int] = Counter()
        self.acknowledges = True
        self._task = asyncio.ensure_future(self._read())

    def submit(self, *requests: GenerateRequest, first: int = 1) -> None:
        for number, one in enumerate(requests, first):
            self.send(number, (f"r{number}", pickle.dumps(one), ()))

    def cancel(self, number: int, *, kill: bool) -> None:
        self.send(number, "kill" if kill else "stop")

    def send(self, number: int, message: Message) -> None:
        self.host.send(self.id, [(number, self._places[number], message)])
        self._places[number] += 1

    def said(self, number: int) -> list[Event | PenstockError]:
        return self.items.get(number, [])

    def text(self, number: int) -> str:
        return "".join(item.text for item in self.said(number) if isinstance(item, TextDelta))

    def is_over(self, number: int) -> bool:
        said = self.said(number)
        return bool(said) and isinstance(said[-1], Finished | PenstockError)

    async def has_started(self, number: int) -> None:
        await until(lambda: self.said(number) and isinstance(self.said(number)[0], Started))

    async def end(self, number: int) -> Event | PenstockError:
        await until(lambda: self.is_over(number))
        return self.said(number)[-1]

    async def is_open(self) -> None:
        await until(lambda: self.frames)

    def close(self) -> None:
        self._task.cancel()
        self.host.close(self.id)

    async def _read(self) -> None:
        try:
            while True:
                self.calls += 1
                async for data in self.host.open(self.id, len(self.frames), 1):
                    self._take(decode(data))
        except InstanceLost as error:
            self.lost = error

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        assert frame.sequence == len(self.frames)
        for number, item in frame.entries:
            self.items.setdefault(number, []).append(item)
        self.news.extend(frame.news)
        if frame.pulse is not None:
            self.pulses.append(frame.pulse)
        if self.acknowledges:
            self.host.acknowledge(self.id, frame.sequence)
