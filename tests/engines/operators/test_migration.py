"""Where a broken stream cannot go on, or its caller does not want it to."""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from engines.completion import collect
from engines.context import Context
from engines.contract import Capabilities, Engine
from engines.errors import EngineFailed, EngineFault, InstanceLost, NoInstance, PenstockError, QueueFull, Timeout
from engines.events import Event, Finished, Started, TextDelta, Usage
from engines.garbage import CollectorPaused
from engines.operators.migration import Migration, MigrationOptions, Move
from engines.operators.operator import Transparent
from engines.registry import EngineSpec, make_engine
from engines.requests import GenerateRequest, Sampling
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from engines.sink import Sink
from tests.contract.asking import WEATHER, Recorder, eventually, said

REQUEST = GenerateRequest(model="m", prompt="hi", sampling=Sampling(temperature=0.0))


class Breaks(Transparent):
    """Plays a script that ends with an error; refuses whoever comes again, so many times."""

    def __init__(
        self, error: PenstockError, refusal: Exception, refusals: int = 10**9, said: tuple[str, ...] = ("one ", "two ")
    ) -> None:
        self.first = ScriptedEngine("first", script=[*said, error] if said else [0, error])
        self.second = ScriptedEngine("second", script=["one ", "two ", "three"])
        self.around(self.first)
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
    migration = Migration(MigrationOptions(wait_s=wait_s)).around(engine)
    migration.report = engine.moves.append
    await migration.submit(REQUEST, context or Context(), recorder)
    return recorder


async def test_what_was_asked_is_freed_with_its_answer_without_the_collector() -> None:
    engine = make_engine("m-0", EngineSpec(kind="simulated", model="m", options={"speed": "instant"}))
    await engine.start()
    migration = Migration().around(engine)
    with CollectorPaused():
        request = REQUEST.model_copy()
        freed = weakref.ref(request)
        assert await collect(migration.generate(request, Context()))
        del request
        await eventually(lambda: freed() is None)
        refused = REQUEST.model_copy(update={"prompt": "hi " * 100_000})
        freed = weakref.ref(refused)
        with pytest.raises(PenstockError):
            await collect(migration.generate(refused, Context()))
        del refused
        await eventually(lambda: freed() is None)
    await engine.stop()


async def test_it_waits_for_an_instance_that_takes_it() -> None:
    engine = Breaks(InstanceLost("gone"), QueueFull("full"), refusals=2)
    context = Context()
    recorder = await answer(engine, wait_s=30.0, context=context)
    await recorder.over()
    assert context.moves == 1
    assert (recorder.text, engine.asked) == ("one two three", 4)
    assert [move.outcome for move in engine.moves] == ["continued"]
    assert recorder.finished is not None and recorder.finished.usage.completion_tokens == len("one two three")


async def test_when_nobody_takes_it_in_time_it_says_both_why_it_broke_and_why_it_stayed_so() -> None:
    recorder = await answer(Breaks(InstanceLost("The first is gone."), NoInstance("There is none.", retry_after_s=3.0)))
    await recorder.over()
    assert isinstance(recorder.error, InstanceLost)
    assert "first is gone" in recorder.error.message and "There is none" in recorder.error.message
    assert recorder.error.retry_after_s == 3.0


@pytest.mark.parametrize("refusal", [EngineFailed("at /secret/model.bin"), OSError("at /secret/model.bin")])
async def test_what_a_foreign_exception_says_of_the_next_instance_is_for_the_log(refusal: Exception) -> None:
    recorder = await answer(Breaks(InstanceLost("The first is gone."), refusal))
    await recorder.over()
    error = recorder.error
    assert isinstance(error, InstanceLost)
    assert error.message == (
        "The first is gone. The answer could not be continued elsewhere: The engine failed on this request."
    )
    assert "/secret/model.bin" in error.private


async def test_nobody_waits_for_an_instance_past_the_deadline() -> None:
    engine = Breaks(InstanceLost("gone"), NoInstance("none"))
    recorder = await answer(engine, wait_s=600.0, context=Context(deadline_s=time.monotonic() + 0.05))
    await recorder.over()
    assert isinstance(recorder.error, InstanceLost)


async def test_a_bug_on_the_way_reaches_the_caller() -> None:
    engine = Breaks(InstanceLost("gone"), KeyError("bug"))
    recorder = await answer(engine)
    await recorder.over()
    assert isinstance(recorder.error, InstanceLost) and "KeyError" in recorder.error.private
    await eventually(lambda: [move.outcome for move in engine.moves] == ["failed"])


@pytest.mark.parametrize("error", [EngineFailed("no"), Timeout("total", 1.0)])
async def test_what_would_fail_anywhere_is_not_moved(error: PenstockError) -> None:
    engine = Breaks(error, NoInstance("none"))
    recorder = await answer(engine)
    await recorder.over()
    assert (type(recorder.error), engine.asked) == (type(error), 1)


class StopsAtTheGate(Breaks):
    """Takes a stream again only to say that it was stopped, as a gate does: it knows nothing of what came before."""

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        if request.resume is None:
            await super().submit(request, context, sink)
            return
        sink.emit(Started("gate", "m"))
        sink.emit(Finished(("cancelled",), Usage(), "gate"))


@pytest.mark.parametrize("said", [("one ", "two "), ()])
async def test_the_usage_of_a_stream_that_is_stopped_at_the_next_gate_is_that_of_the_whole(
    said: tuple[str, ...],
) -> None:
    recorder = await answer(StopsAtTheGate(InstanceLost("gone"), NoInstance("none"), said=said))
    await recorder.over()
    assert recorder.finished is not None
    assert recorder.finished.reason == "cancelled"
    usage = recorder.finished.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len("hi"), len("".join(said)))


@pytest.mark.parametrize("kill", [False, True])
async def test_a_caller_who_gives_up_while_it_waits_is_answered(kill: bool) -> None:
    engine, context = Breaks(InstanceLost("gone"), NoInstance("none")), Context()
    recorder = await answer(engine, wait_s=60.0, context=context)
    await eventually(lambda: engine.asked > 2)
    (context.kill if kill else context.stop)()
    async with asyncio.timeout(60):
        await recorder.over()
    await eventually(lambda: [move.outcome for move in engine.moves] == ["cancelled"])
    if kill:
        assert recorder.error is not None and recorder.error.code == "cancelled"
        return
    last = recorder.events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.usage.completion_tokens) == ("cancelled", len("one two "))
    assert last.usage.prompt_tokens == len("hi")


class Dying(Transparent):
    """Loses every stream, after the events of the next of these scripts; the last one goes on for good."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.engines = [ScriptedEngine(f"e{number}", script=script) for number, script in enumerate(scripts)]
        self.around(self.engines[0])
        self.asked = 0

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        engine = self.engines[min(self.asked, len(self.engines) - 1)]
        self.asked += 1
        if not engine.ready:
            await engine.start()
        await engine.submit(request, context, sink)


GONE = InstanceLost("gone")


async def test_a_move_to_an_instance_that_turns_out_dead_does_not_count() -> None:
    nothing_new = ["one ", 0.01, GONE]
    engine = Dying(["one ", GONE], nothing_new, nothing_new, nothing_new, ["one ", "two"])
    assert (
        await collect(Migration(MigrationOptions(limit=1)).around(engine).generate(REQUEST, Context()))
    ).text == "one two"
    assert engine.asked == 5


async def test_a_stream_that_stands_still_is_not_moved_for_ever() -> None:
    engine = Dying(["one ", GONE], ["one ", 0.01, GONE])
    began_s = time.monotonic()
    with pytest.raises(InstanceLost):
        await collect(Migration(MigrationOptions(limit=1, wait_s=0.3)).around(engine).generate(REQUEST, Context()))
    assert engine.asked > 2 and time.monotonic() - began_s < 30.0


async def test_moves_between_which_something_came_count() -> None:
    engine = Dying(["one ", GONE], ["one ", "two ", GONE], ["one ", "two ", "three"])
    with pytest.raises(InstanceLost):
        await collect(Migration(MigrationOptions(limit=1)).around(engine).generate(REQUEST, Context()))
    assert engine.asked == 2


async def test_a_stopped_stream_that_breaks_for_the_last_time_has_still_ended_politely() -> None:
    class DiesOfStop(Dying):
        async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
            if self.asked:  # The last one does not live to hear it.
                context.on_stop(lambda _: sink.fail(InstanceLost("gone")))
            await super().submit(request, Context(), sink)

    engine = DiesOfStop(["one ", GONE], ["one ", "two ", Hang()])
    context, recorder = Context(), Recorder()
    await Migration(MigrationOptions(limit=1)).around(engine).submit(REQUEST, context, recorder)
    await eventually(lambda: recorder.deltas == 2)
    context.stop()
    await recorder.over()
    assert recorder.finished is not None and recorder.finished.reason == "cancelled"


async def test_a_request_that_takes_engines_with_it_fails_as_that() -> None:
    engine = Breaks(InstanceLost("gone"), EngineFault("Engines died of it."))
    recorder = await answer(engine)
    await recorder.over()
    assert isinstance(recorder.error, EngineFault)


class WithoutIds(Transparent):
    """Says nothing of its ids, as a remote engine, and breaks the first streams after so many events each."""

    def __init__(self, engine: Engine, *breaks: int) -> None:
        self.around(engine)
        self.breaks = list(breaks)
        self.requests: list[GenerateRequest] = []

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        self.requests.append(request)
        left = self.breaks.pop(0) if self.breaks else -1
        inner = context.child()
        await super().submit(request, inner, _Idless(sink, inner, left))


class _Idless:
    def __init__(self, sink: Sink, context: Context, left: int) -> None:
        self._sink = sink
        self._context = context
        self._left = left

    def emit(self, event: Event) -> None:
        if self._context.is_killed:
            return
        if isinstance(event, Started):
            event = replace(event, vocabulary="", resumable=False)
        elif getattr(event, "token_ids", ()):
            event = replace(event, token_ids=())  # type: ignore[arg-type]
        self._sink.emit(event)
        self._left -= 1
        if self._left == 0 and not isinstance(event, Finished):
            self._context.kill()
            self._sink.fail(InstanceLost("The engine was lost."))

    def fail(self, error: PenstockError) -> None:
        if not self._context.is_killed:
            self._sink.fail(error)


def asking(text: str, *, sampling: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
    greedy = {"temperature": 0.0, "max_tokens": 60}
    return GenerateRequest.model_validate(
        {"model": "model", "messages": [{"role": "user", "content": text}], "sampling": greedy | (sampling or {})}
        | fields
    )


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "city": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "city", "age"],
}
REPLAYED = {
    "text": asking("count from 1 to 12"),
    "log probabilities": asking("count from 1 to 12", sampling={"logprobs": 2}),
    "several choices": asking("count from 1 to 9", sampling={"n": 2}),
    "a schema": asking("Ada", sampling={"guided": {"json_schema": SCHEMA}}),
    "tool calls": asking("what is the weather in Rome and Oslo?", tools=[WEATHER]),
    "reasoning": asking("count from 3 to 7", chat_template_kwargs={"enable_thinking": True}),
}


@pytest.fixture
async def simulated() -> AsyncIterator[Engine]:
    engine = make_engine("sim", EngineSpec(kind="simulated", model="model", options={"speed": "instant"}))
    await engine.start()
    yield engine
    await engine.stop()


@pytest.mark.parametrize("request_", REPLAYED.values(), ids=REPLAYED)
async def test_an_answer_without_ids_is_repeated_and_only_what_is_new_passes(
    simulated: Engine, request_: GenerateRequest
) -> None:
    whole = await collect(WithoutIds(simulated).generate(request_, Context()))
    for cut in range(1, 12):
        engine = WithoutIds(simulated, cut, cut)
        assert said(await collect(Migration().around(engine).generate(request_, Context()))) == said(whole), cut
        assert len(engine.requests) == 3
        assert all(request.resume is not None and not request.resume.choices for request in engine.requests[1:])


async def test_without_ids_what_was_drawn_starts_over_only_before_it_said_anything(simulated: Engine) -> None:
    drawn = asking("tell me more", sampling={"temperature": 1.0, "ignore_eos": True})
    assert (await collect(Migration().around(WithoutIds(simulated, 1)).generate(drawn, Context()))).text
    with pytest.raises(InstanceLost):
        await collect(Migration().around(WithoutIds(simulated, 5)).generate(drawn, Context()))


async def test_an_answer_that_is_another_one_is_not_passed_off_as_the_first() -> None:
    engine = Breaks(InstanceLost("gone"), NoInstance("none"), refusals=0)
    capabilities = Capabilities(resume=False)
    engine.first = ScriptedEngine("first", script=["one ", "two ", InstanceLost("gone")], capabilities=capabilities)
    engine.second = ScriptedEngine("second", script=["one ", "three"], capabilities=capabilities)
    context = Context()
    recorder = await answer(engine, context=context)
    await recorder.over()
    assert isinstance(recorder.error, InstanceLost) and "its words differ" in recorder.error.message
    assert (recorder.text, context.is_killed) == ("one two ", True)


async def test_choices_that_had_ended_are_only_reported() -> None:
    words = [TextDelta(text, index, tuple(map(ord, text))) for text, index in [("a", 0), ("bc", 1), ("d", 1), ("e", 0)]]
    end = Finished(("stop", "length"), Usage(2, 5), "")
    first = ScriptedEngine("first", script=[*words[:3], InstanceLost("gone"), words[3], end])
    await first.start()
    request = REQUEST.model_copy(update={"sampling": Sampling(n=2)})
    completion = await collect(Migration().around(first).generate(request, Context()))
    assert [choice.text for choice in completion.choices] == ["ae", "bcd"]
    assert [choice.token_ids for choice in completion.choices] == [tuple(map(ord, "ae")), tuple(map(ord, "bcd"))]
    resume = first.requests[1].resume
    assert resume is not None and resume.choices == [[ord("a")], list(map(ord, "bcd"))]
