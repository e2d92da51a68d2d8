import pytest

from deployments.event_batches import in_batches
from engines.context import Context
from engines.errors import EngineFailed, InvalidRequest, PenstockError
from engines.events import Event, Finished, Started, TextDelta
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from tests.deployments.waiting import until

REQUEST = GenerateRequest(model="m", prompt="a b c")


async def engine(*script: object) -> ScriptedEngine:
    scripted = ScriptedEngine("e", script=script)  # type: ignore[arg-type]
    await scripted.start()
    return scripted


async def test_all_events_in_order_and_never_an_empty_batch() -> None:
    scripted = await engine("a", "b", "c")
    batches = [batch async for batch in in_batches(scripted, REQUEST, Context())]
    assert all(batches)
    assert [event for batch in batches for event in batch] == scripted.plays[0].emitted


async def test_what_came_while_the_reader_was_busy_is_one_batch() -> None:
    scripted = await engine("a", "b", "c")
    batches = in_batches(scripted, REQUEST, Context())
    assert isinstance((await anext(batches))[0], Started)
    await until(lambda: not scripted.active)
    rest = await anext(batches)
    assert [type(event) for event in rest] == [TextDelta, TextDelta, TextDelta, Finished]
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


async def test_an_error_comes_after_what_was_said_before_it() -> None:
    scripted = await engine("a", EngineFailed("broke"))
    events: list[Event] = []
    with pytest.raises(EngineFailed):
        async for batch in in_batches(scripted, REQUEST, Context()):
            events.extend(batch)
    assert [type(event) for event in events] == [Started, TextDelta]


async def test_a_setup_error_comes_from_the_first_batch() -> None:
    error: PenstockError = InvalidRequest("no")
    with pytest.raises(InvalidRequest):
        await anext(in_batches(await engine(error), REQUEST, Context()))


async def test_dropping_it_frees_the_slot() -> None:
    scripted = await engine("a", Hang())
    batches = in_batches(scripted, REQUEST, Context())
    await anext(batches)
    assert scripted.active
    await batches.aclose()
    assert not scripted.active
