"""Where a broken stream cannot go on, or its caller does not want it to."""

import asyncio

import pytest

from engines.context import Context
from engines.contract import Sink
from engines.errors import EngineFailed, InstanceLost, NoInstance, PenstockError, QueueFull, Timeout
from engines.events import Finished
from engines.migration import Migration, Move
from engines.operator import Operator
from engines.requests import GenerateRequest, Sampling
from engines.scripted import ScriptedEngine
from tests.contract.asking import Recorder, eventually

REQUEST = GenerateRequest(model="m", prompt="hi", sampling=Sampling(temperature=0.0))


class Breaks(Operator):
    """Plays a script that ends with an error; refuses whoever comes again, so many times."""

    def __init__(self, error: PenstockError, refusal: Exception, refusals: int = 10**9) -> None:
        self.first = ScriptedEngine("first", script=["one ", "two ", error])
        self.second = ScriptedEngine("second", script=["one ", "two ", "three"])
        super().__init__(self.first)
        self._refusal = refusal
        self.moves: list[Move] = []
        self.refusals = refusals
        self.asked = 0

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        self.asked += 1
        if request.resume is None:
            await self.first.submit(request, context, sink)
        elif self.asked - 2 < self.refusals:
            raise self._refusal
        else:
            await self.second.submit(request, context, sink)


async def answer(engine: Breaks, wait_s: float = 0.1, context: Context | None = None) -> Recorder:
    await engine.first.start()
    await engine.second.start()
    recorder = Recorder()
    await Migration(engine, wait_s=wait_s, on_move=engine.moves.append).submit(REQUEST, context or Context(), recorder)
    return recorder


async def test_it_waits_for_an_instance_that_takes_it() -> None:
    engine = Breaks(InstanceLost("gone"), QueueFull("full"), refusals=2)
    recorder = await answer(engine, wait_s=30.0)
    await recorder.over()
    assert (recorder.text, engine.asked) == ("one two three", 4)
    assert [move.outcome for move in engine.moves] == ["continued"]
    assert recorder.finished is not None and recorder.finished.usage.completion_tokens == len("one two three")


async def test_when_nobody_takes_it_in_time_it_says_both_why_it_broke_and_why_it_stayed_so() -> None:
    recorder = await answer(Breaks(InstanceLost("The first is gone."), NoInstance("There is none.", retry_after_s=3.0)))
    await recorder.over()
    assert isinstance(recorder.error, InstanceLost)
    assert "first is gone" in recorder.error.message and "There is none" in recorder.error.message
    assert recorder.error.retry_after_s == 3.0


async def test_a_bug_on_the_way_reaches_the_caller() -> None:
    engine = Breaks(InstanceLost("gone"), KeyError("bug"))
    recorder = await answer(engine)
    await recorder.over()
    assert isinstance(recorder.error, InstanceLost) and "KeyError" in recorder.error.message
    await eventually(lambda: [move.outcome for move in engine.moves] == ["failed"])


@pytest.mark.parametrize("error", [EngineFailed("no"), Timeout("total", 1.0)])
async def test_what_would_fail_anywhere_is_not_moved(error: PenstockError) -> None:
    engine = Breaks(error, NoInstance("none"))
    recorder = await answer(engine)
    await recorder.over()
    assert (type(recorder.error), engine.asked) == (type(error), 1)


@pytest.mark.parametrize("kill", [False, True])
async def test_a_caller_who_gives_up_while_it_waits_is_answered(kill: bool) -> None:
    engine, context = Breaks(InstanceLost("gone"), NoInstance("none")), Context()
    recorder = await answer(engine, wait_s=60.0, context=context)
    await eventually(lambda: engine.asked > 2)
    (context.kill if kill else context.stop)()
    async with asyncio.timeout(10.0):
        await recorder.over()
    await eventually(lambda: [move.outcome for move in engine.moves] == ["cancelled"])
    if kill:
        assert recorder.error is not None and recorder.error.code == "cancelled"
        return
    last = recorder.events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.usage.completion_tokens) == ("cancelled", len("one two "))
