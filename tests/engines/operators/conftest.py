"""What the operators' tests share: a clock that goes when it is told to, and engines that fail on purpose."""

from collections.abc import Iterable
from typing import Any

import pytest

from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine


class Clock:
    """Seconds that only a test lets pass."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def playing(name: str, *scripts: Iterable[Any]) -> ScriptedEngine:
    """A started engine that plays one script after another, the last one for good."""
    left = list(scripts)

    def next_script(_: GenerateRequest) -> Iterable[Any]:
        return left.pop(0) if len(left) > 1 else left[0]

    engine = ScriptedEngine(name, script=next_script)
    await engine.start()
    return engine
