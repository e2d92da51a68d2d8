"""How the contract suite asks an engine, and listens."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from engines.completion import Completion, collect
from engines.context import Context
from engines.contract import Engine
from engines.errors import PenstockError, Unsupported
from engines.events import Delta, Event, Finished, Started, TextDelta
from engines.requests import GenerateRequest, Sampling

DEADLINE_S = 60.0
"""Far beyond what any engine needs: only a hang reaches it."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def said(completion: Completion) -> Any:
    """What two runs must not differ in. Ids of calls are random, and what was cached depends on who asked before."""
    choices = [
        (replace(choice, tool_calls=()), [(call.name, call.arguments) for call in choice.tool_calls])
        for choice in completion.choices
    ]
    return choices, replace(completion.usage, cached_tokens=0)


@dataclass(frozen=True, slots=True)
class Running:
    """A started engine under test, and what its subject says of it.

    Attributes:
        is_foreign: Another project's server answers: what it lets pass, refuses, or does not tell is its own affair.
        speaks_foreign_api: It asks in an API that has no place for some of our fields, whoever answers.
    """

    engine: Engine
    model: str
    names: Collection[str]
    is_foreign: bool = False
    speaks_foreign_api: bool = False

    def needs(self, *capabilities: str) -> None:
        """Skips the test unless the engine has them."""
        for name in capabilities:
            if not getattr(self.engine.capabilities, name):
                pytest.skip(f"{self.engine.name} has no {name}")

    def is_ours(self) -> None:
        """Skips a test of what a foreign server decides."""
        if self.is_foreign:
            pytest.skip("another project's server decides that")

    def request(self, text: str, *, sampling: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
        """A greedy request for the answer to one message."""
        return GenerateRequest(
            model=self.model,
            messages=[{"role": "user", "content": text}],
            sampling=Sampling(**{"temperature": 0.0, **(sampling or {})}),
            **fields,
        )

    def counting(self, first: int, last: int, **sampling: Any) -> GenerateRequest:
        """Asks for the numbers from `first` to `last`; `counted` is the answer."""
        return self.request(f"count from {first} to {last}", sampling=sampling)

    async def ask(self, request: GenerateRequest, context: Context | None = None) -> Completion:
        """The whole answer; skips a test of what a foreign API does not have."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await collect(self.engine.generate(request, context or Context()))
        except Unsupported as error:
            if self.is_foreign or self.speaks_foreign_api:
                pytest.skip(error.message)
            raise

    async def listen(self, request: GenerateRequest) -> list[Event]:
        """All events."""
        async with asyncio.timeout(DEADLINE_S):
            return [event async for event in self.engine.generate(request, Context())]

    async def is_idle(self) -> None:
        """Returns when the engine holds no request any more; fails when that takes too long."""
        await eventually(lambda: self.engine.load().running + self.engine.load().queued == 0)

    async def still_serves(self) -> None:
        """Fails unless the engine is healthy, idle, and counts right."""
        await self.is_idle()
        await self.engine.check_health()
        assert (await self.ask(self.counting(5, 9))).text == "5 6 7 8 9"


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[Engine]:
    """Starts an engine, and stops it on the way out."""
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def counted(first: int, last: int) -> str:
    """What "count from first to last" is answered with."""
    return " ".join(map(str, range(first, last + 1)))


class Recorder:
    """A sink that keeps what it hears, and holds the engine to the contract while listening.

    Args:
        on_delta: Called with the number of deltas so far, after each.
    """

    def __init__(self, on_delta: Callable[[int], None] | None = None) -> None:
        self.events: list[Event] = []
        self.error: PenstockError | None = None
        self.broken: list[str] = []
        self.deltas = 0
        self._on_delta = on_delta
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def finished(self) -> Finished | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Finished) else None

    def emit(self, event: Event) -> None:
        if self._over.done():
            self.broken.append(f"{event} after the end")
        if isinstance(event, Started) == bool(self.events):
            self.broken.append(f"{event} at position {len(self.events)}")
        self.events.append(event)
        if isinstance(event, Finished):
            self._end()
        elif isinstance(event, Delta):
            self.deltas += 1
            if self._on_delta is not None:
                self._on_delta(self.deltas)

    def fail(self, error: PenstockError) -> None:
        if self._over.done():
            self.broken.append(f"{error!r} after the end")
        self.error = error
        self._end()

    async def over(self) -> None:
        """Returns when the stream has ended as the contract says."""
        async with asyncio.timeout(DEADLINE_S):
            await self._over
        assert not self.broken

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)


async def eventually(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Returns when the condition holds.

    Raises:
        AssertionError: It never did.
    """
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "it never happened"
        await asyncio.sleep(0.005)
