"""How these tests ask, and listen."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from engines.completion import Choice, Completion, collect
from engines.context import Context
from engines.contract import Engine
from engines.errors import PenstockError
from engines.events import Event, Finished, TextDelta
from engines.requests import GenerateRequest

DEADLINE_S = 300.0
"""Far beyond what anything here takes: only a hang reaches it."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def chat(text: str, *, sampling: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
    """A greedy request for the answer to one message."""
    return GenerateRequest.model_validate(
        {
            "model": "demo",
            "messages": [{"role": "user", "content": text}],
            "sampling": {"temperature": 0.0, "max_tokens": 600} | (sampling or {}),
        }
        | fields
    )


def counting(first: int, last: int, **sampling: Any) -> GenerateRequest:
    """Asks for the numbers from `first` to `last`."""
    return chat(f"count from {first} to {last}", sampling=sampling)


def counted(first: int, last: int) -> str:
    """The right answer to `counting`."""
    return " ".join(map(str, range(first, last + 1)))


async def ask(engine: Engine, request: GenerateRequest) -> Completion:
    """The whole answer."""
    async with asyncio.timeout(DEADLINE_S):
        return await collect(engine.generate(request, Context()))


async def answer(engine: Engine, request: GenerateRequest) -> Choice:
    """The first choice of the answer."""
    return (await ask(engine, request)).choices[0]


async def still_serves(engine: Engine) -> None:
    """Fails unless the engine is healthy, and answers."""
    await engine.check_health()
    assert (await ask(engine, counting(5, 9, max_tokens=5))).text.startswith("5 6")


async def listen(engine: Engine, request: GenerateRequest) -> list[Event]:
    """All events."""
    async with asyncio.timeout(DEADLINE_S):
        return [event async for event in engine.generate(request, Context())]


def ids_of(*events: Event) -> list[int]:
    """The token ids that travelled with the events."""
    return [token for event in events for token in getattr(event, "token_ids", ())]


def text_of(*events: Event) -> str:
    """The text of the answer in the events."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def eventually(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
    """Returns when it holds; fails when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


class Recorder:
    """A sink that keeps what it hears, and fails on anything after the terminal."""

    def __init__(self, on_event: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self.error: PenstockError | None = None
        self.ended = asyncio.Event()
        self._on_event = on_event

    def emit(self, event: Event) -> None:
        assert not self.ended.is_set(), f"{event} after the end"
        self.events.append(event)
        if isinstance(event, Finished):
            self.ended.set()
        if self._on_event is not None:
            self._on_event(event)

    def fail(self, error: PenstockError) -> None:
        assert not self.ended.is_set(), f"{error!r} after the end"
        self.error = error
        self.ended.set()

    async def end(self) -> None:
        """Returns when the stream has ended."""
        async with asyncio.timeout(DEADLINE_S):
            await self.ended.wait()
