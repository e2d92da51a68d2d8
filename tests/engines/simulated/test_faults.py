"""Requests that do the simulated engine harm."""

import asyncio
import os
import signal
from typing import Any

import pytest

from engines.context import Context
from engines.events import TextDelta
from engines.requests import GenerateRequest, Resume
from engines.simulated.engine import SimulatedEngine
from tests.contract.asking import Recorder, eventually
from tests.engines.simulated.making import answer, asking, engine

POISON = asking("count from 1 to 9, poison")
HARMLESS = asking("count from 1 to 9")


@pytest.mark.parametrize("after_tokens", [None, 0, 4])
async def test_one_kills_the_process_each_time_that_it_comes(
    after_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    faults = {"kill": "poison", "after_tokens": after_tokens}
    async with engine(faults=faults) as simulated:
        undisturbed = await answer(simulated, HARMLESS)
        assert undisturbed.text and not killed
        tokens = await _meets_its_end(simulated, POISON, killed)
        assert killed == [(os.getpid(), signal.SIGKILL)]
        assert len(tokens) == (after_tokens or 0)
    async with engine(faults=faults) as another:
        await _meets_its_end(another, POISON.model_copy(update={"resume": Resume(choices=[tokens])}), killed)
        assert len(killed) == 2


async def test_one_makes_the_engine_hang_for_everybody() -> None:
    async with engine(faults={"hang": "poison"}, speed=1.0) as simulated:
        bystander = Recorder()
        await simulated.submit(asking("count from 1 to 900"), Context(), bystander)
        await eventually(lambda: bystander.text)
        await simulated.submit(POISON, Context(), poison := Recorder())
        await eventually(lambda: simulated._faults._hangs)
        steps, said = simulated.steps, bystander.text
        await simulated.submit(HARMLESS, Context(), late := Recorder())
        await asyncio.sleep(0.1)
        assert (simulated.steps, bystander.text, poison.text, late.text) == (steps, said, "", "")


async def _meets_its_end(simulated: SimulatedEngine, request: GenerateRequest, killed: list[Any]) -> list[int]:
    """Submits a request that kills the engine; the tokens that it got before."""
    recorder, before = Recorder(), len(killed)
    task = asyncio.ensure_future(simulated.submit(request, Context(), recorder))
    await eventually(lambda: len(killed) > before)
    task.cancel()
    return [id for event in recorder.events if isinstance(event, TextDelta) for id in event.token_ids]
