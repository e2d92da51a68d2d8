"""Pipelines are put together once, of parts that fit."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from engines.completion import collect
from engines.context import Context
from engines.contract import Engine, PushEngine
from engines.errors import PenstockError
from engines.events import Event, Finished, TextDelta
from engines.operators.link import link
from engines.operators.migration import Migration
from engines.operators.operator import Operator, Transparent
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from engines.sink import Sink

REQUEST = GenerateRequest(model="m", prompt="hi")


class Mark(Transparent):
    """Leaves its mark on what passes."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        prompt = f"{request.prompt}>{self.mark}"
        await self.inner.submit(request.model_copy(update={"prompt": prompt}), context, sink)


@dataclass(frozen=True)
class Line:
    """All that an API of one line asks and answers."""

    text: str


class LineSink:
    def __init__(self, sink: Sink[Line | Finished]) -> None:
        self._sink = sink

    def emit(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._sink.emit(Line(event.text))
        elif isinstance(event, Finished):
            self._sink.emit(event)

    def fail(self, error: PenstockError) -> None:
        self._sink.fail(error)


class Translation(Operator[Line, Line | Finished, GenerateRequest, Event]):
    """Answers an API of lines."""

    async def submit(self, request: Line, context: Context, sink: Sink[Line | Finished]) -> None:
        await self.inner.submit(GenerateRequest(model="m", prompt=request.text), context, LineSink(sink))


class Shouting(Transparent[Line, Line | Finished]):
    """Changes lines, and knows nothing else."""

    async def submit(self, request: Line, context: Context, sink: Sink[Line | Finished]) -> None:
        await self.inner.submit(Line(request.text.upper()), context, sink)


class Generic(Transparent):
    """Passes everything on."""


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine("e", script=["one ", "two"])
    await engine.start()
    yield engine
    await engine.stop()


async def test_a_request_passes_the_operators_in_the_order_in_which_they_were_linked(engine: ScriptedEngine) -> None:
    pipeline = link(Mark("a"), Mark("b"), Mark("c"), engine)
    assert isinstance(pipeline, Mark) and pipeline.mark == "a"
    assert (await collect(pipeline.generate(REQUEST, Context()))).text == "one two"
    assert engine.requests[0].prompt == "hi>a>b>c"


async def test_an_engine_alone_is_a_pipeline_and_so_is_one_of_pipelines(engine: ScriptedEngine) -> None:
    assert link(engine) is engine
    inner = link(Mark("c"), engine)
    await collect(link(Mark("a"), Mark("b"), inner).generate(REQUEST, Context()))
    assert engine.requests[0].prompt == "hi>a>b>c"


async def test_a_translation_changes_what_is_asked_and_what_is_answered(engine: ScriptedEngine) -> None:
    pipeline = link(Shouting(), Translation(), engine)
    said = [event async for event in pipeline.generate(Line("hi"), Context())]
    assert said[:-1] == [Line("one "), Line("two")] and isinstance(said[-1], Finished)
    assert engine.requests[0].prompt == "HI"


def test_neighbours_that_speak_of_different_things_are_refused(engine: ScriptedEngine) -> None:
    with pytest.raises(TypeError, match=r"Shouting does not fit around ScriptedEngine.*type Line.*GenerateRequest"):
        link(Shouting(), engine)  # type: ignore[misc]
    with pytest.raises(TypeError, match="Migration does not fit around Translation"):
        link(Migration(), Translation(), engine)  # type: ignore[misc]


def test_an_operator_is_linked_once(engine: ScriptedEngine) -> None:
    mark = Mark("a")
    link(mark, engine)
    with pytest.raises(ValueError, match="Mark is linked already, around 'e'"):
        link(mark, engine)


def test_a_pipeline_ends_with_an_engine_and_has_only_operators_before_it(engine: ScriptedEngine) -> None:
    with pytest.raises(ValueError, match="Mark is around nothing"):
        link(Generic(), Mark("a"))
    with pytest.raises(TypeError, match="ScriptedEngine is no operator"):
        link(Generic(), engine, engine)
    with pytest.raises(ValueError, match="needs an engine"):
        link()


def test_what_an_operator_does_not_change_is_the_inner_engines(engine: ScriptedEngine) -> None:
    pipeline: Engine = link(Generic(), Generic(), engine)
    assert isinstance(pipeline, PushEngine)
    for attribute in ("name", "capabilities", "ready", "steps"):
        assert getattr(pipeline, attribute) == getattr(engine, attribute)
    assert pipeline.load() == engine.load()
