"""The scripted engine plays what it is told, and honours the contract while doing so."""

import asyncio
import os
import signal
from typing import Any

import pytest
from pydantic import ValidationError

from engines.completion import collect
from engines.context import Context
from engines.contract import Progress
from engines.errors import (
    Cancelled,
    ContextOverflow,
    EngineDead,
    EngineFailed,
    InstanceLost,
    NotReady,
    QueueFull,
    StreamIncomplete,
    Timeout,
)
from engines.events import Finished, Started, TextDelta, ToolCallFinished, ToolCallStarted
from engines.registry import EngineSpec, make_engine
from engines.requests import GenerateRequest, Resume
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Count, Handler, Hang, Hold, Queue, Script, Work
from tests.contract.asking import Recorder, eventually

REQUEST = GenerateRequest(model="model", prompt="one two three")


async def from_file(*script: Any, **options: Any) -> ScriptedEngine:
    """As a fleet file makes it."""
    spec = EngineSpec(kind="scripted", model="model", options={"script": list(script), **options})
    engine = make_engine("engine", spec)
    assert isinstance(engine, ScriptedEngine)
    await engine.start()
    return engine


async def scripted(script: Script | Handler) -> ScriptedEngine:
    engine = ScriptedEngine("engine", script=script)
    await engine.start()
    return engine


async def heard(engine: ScriptedEngine, request: GenerateRequest = REQUEST) -> Recorder:
    recorder = Recorder()
    await engine.submit(request, Context(), recorder)
    await recorder.over()
    return recorder


async def test_a_file_can_say_everything() -> None:
    engine = await from_file(
        "a ",
        0.001,
        {"say": "b", "times": 2, "every_s": 0.001},
        {"count_from": 3, "to": 1},
        {"echo": True},
        {"event": "ToolCallStarted", "fields": {"call": 0, "id": "c", "name": "get_time"}},
        {"event": "ToolCallFinished", "fields": {"call": 0}},
        {"event": "Finished", "fields": {"reasons": ["tool_calls"], "usage": {"prompt_tokens": 9}, "engine": ""}},
    )
    recorder = await heard(engine)
    assert recorder.text == "a bb3 2 1one two three"
    assert recorder.events[-3:-1] == [ToolCallStarted(0, "c", "get_time"), ToolCallFinished(0)]
    assert recorder.finished is not None
    assert (recorder.finished.reason, recorder.finished.engine) == ("tool_calls", "engine")
    assert recorder.finished.usage.prompt_tokens == 9


async def test_without_a_script_it_echoes() -> None:
    engine = ScriptedEngine("engine")
    await engine.start()
    assert (await heard(engine)).text == "one two three"


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"error": "NoSuchError"}, "there is no error 'NoSuchError'"),
        ({"error": "Timeout"}, "Timeout cannot be made"),
        ({"event": "TextDelta", "fields": {"colour": "red"}}, "colour"),
        ({"say": "a", "time": 2}, "time"),
        ({"sing": "a"}, "an item of a script is"),
        (-1.0, "greater than or equal to 0"),
    ],
    ids=str,
)
def test_a_wrong_item_of_a_file_is_named(item: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says) as caught:
        make_engine("engine", EngineSpec(kind="scripted", model="model", options={"script": ["fine", item]}))
    assert caught.value.errors()[0]["loc"][:2] == ("script", 1)


async def test_errors_with_fields_come_from_files() -> None:
    engine = await from_file("a", {"error": "Timeout", "fields": {"phase": "total", "timeout_s": 3}})
    assert (await heard(engine)).error == Timeout("total", 3)


@pytest.mark.parametrize("script", [[QueueFull("Full.")], [Hold(hold_s=0.001), QueueFull("Full.")]])
async def test_an_error_first_is_a_setup_error(script: Script) -> None:
    engine, recorder = await scripted(script), Recorder()
    with pytest.raises(QueueFull) as caught:
        await engine.submit(REQUEST, Context(), recorder)
    assert caught.value.instance == "engine"
    assert not recorder.events and recorder.error is None
    assert not engine.active
    assert isinstance(engine.plays[0].outcome, QueueFull)


async def test_an_error_later_is_a_stream_error() -> None:
    recorder = await heard(await scripted(["a", StreamIncomplete("Silence.")]))
    assert recorder.text == "a"
    assert isinstance(recorder.error, StreamIncomplete)


async def test_started_marks_the_point_where_errors_become_stream_errors() -> None:
    recorder = await heard(await scripted([Started("engine", "model"), InstanceLost("Gone.")]))
    assert len(recorder.events) == 1
    assert isinstance(recorder.error, InstanceLost)


async def test_every_request_gets_its_own_error() -> None:
    engine = await scripted(["a", InstanceLost("Gone.")])
    first, second = await heard(engine), await heard(engine)
    assert first.error == second.error and first.error is not second.error


async def test_a_function_may_answer_each_request_its_own_way() -> None:
    def handler(request: GenerateRequest) -> Script:
        if request.prompt == "long":
            raise ContextOverflow("Too long.", context_length=1)
        yield from ("you said ", request.prompt or "")
        raise InstanceLost("Gone.")

    recorder = await heard(await scripted(handler))
    assert recorder.text == "you said one two three"
    assert isinstance(recorder.error, InstanceLost)
    with pytest.raises(ContextOverflow):
        await heard(await scripted(handler), REQUEST.model_copy(update={"prompt": "long"}))


async def test_a_bug_in_a_script_reaches_the_listener() -> None:
    def handler(_: GenerateRequest) -> Script:
        yield "a"
        raise ZeroDivisionError("oops")

    recorder = await heard(await scripted(handler))
    assert isinstance(recorder.error, EngineFailed) and "oops" in recorder.error.message


@pytest.mark.parametrize("wait", [3600.0, Hang()], ids=["delaying", "hanging"])
@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])
async def test_cancelling_takes_effect_at_once(wait: Any, kill: bool) -> None:
    engine, recorder, context = await scripted(["a", wait]), Recorder(), Context()
    await engine.submit(REQUEST, context, recorder)
    await eventually(lambda: recorder.text == "a")
    assert [play.request for play in engine.active] == [REQUEST]
    assert engine.load().running == 1
    (context.kill if kill else context.stop)()
    # No turn of the event loop has passed.
    assert not engine.active and engine.load().running == 0
    if kill:
        assert isinstance(recorder.error, Cancelled)
    else:
        assert recorder.finished is not None and recorder.finished.reason == "cancelled"
        assert recorder.finished.usage.completion_tokens == 1


async def test_cancelling_while_held() -> None:
    engine = await scripted([Hold(hold_s=3600), "a"])
    stopped, killed = Context(), Context()
    recorder = Recorder()
    stopping = asyncio.ensure_future(engine.submit(REQUEST, stopped, recorder))
    killing = asyncio.ensure_future(engine.submit(REQUEST, killed, Recorder()))
    await asyncio.sleep(0)
    stopped.stop()
    killed.kill()
    await stopping
    assert [type(event) for event in recorder.events] == [Started, Finished]
    with pytest.raises(Cancelled):
        await killing
    assert not engine.active


async def test_an_engine_death_ends_everything() -> None:
    def handler(request: GenerateRequest) -> Script:
        return ["a", Hang()] if request.prompt == "wait" else ["b", EngineDead("Dead.")]

    engine, waiting = await scripted(handler), Recorder()
    await engine.submit(REQUEST.model_copy(update={"prompt": "wait"}), Context(), waiting)
    dying = await heard(engine)
    await waiting.over()
    assert isinstance(dying.error, EngineDead) and isinstance(waiting.error, EngineDead)
    assert not engine.ready
    for broken in (engine.check_health(), engine.submit(REQUEST, Context(), Recorder())):
        with pytest.raises(EngineDead):
            await broken


async def test_stopping_the_engine_loses_what_is_active() -> None:
    engine, recorder = await scripted([Hang()]), Recorder()
    await engine.submit(REQUEST, Context(), recorder)
    await engine.stop()
    await engine.stop()
    assert isinstance(recorder.error, InstanceLost)
    with pytest.raises(NotReady):
        await engine.submit(REQUEST, Context(), Recorder())


async def test_booting_may_fail() -> None:
    with pytest.raises(EngineDead, match="No memory"):
        await from_file(boot_s=0.001, boot_error={"error": "EngineDead", "message": "No memory."})
    with pytest.raises(NotReady):
        await ScriptedEngine("engine").check_health()


@pytest.mark.parametrize("cut", range(18))
async def test_a_resumed_request_says_the_rest_and_survives_the_break(cut: int) -> None:
    whole = "1 2 3 4 5 6 7 8 9"
    engine = await scripted([Count(count_from=1, to=4), InstanceLost("Gone."), " ", Count(count_from=5, to=9)])
    resumed = REQUEST.model_copy(update={"resume": Resume(choices=[list(map(ord, whole[:cut]))])})
    recorder = await heard(engine, resumed)
    if cut < len("1 2 3 4"):
        assert isinstance(recorder.error, InstanceLost)
        assert recorder.text == "1 2 3 4"[cut:]
    else:
        assert recorder.finished is not None
        assert recorder.text == whole[cut:]
        assert recorder.finished.usage.completion_tokens == len(whole)


async def test_a_resumed_request_of_another_answer_fails() -> None:
    resumed = REQUEST.model_copy(update={"resume": Resume(choices=[[1, 2]])})
    assert isinstance((await heard(await scripted(["abc"]), resumed)).error, EngineFailed)


async def test_it_remembers_what_it_saw() -> None:
    engine = await scripted(["a"])
    completion = await collect(engine.generate(REQUEST, Context("request-1")))
    (play,) = engine.plays
    assert engine.requests == [REQUEST]
    assert play.context.id == "request-1"
    assert play.emitted == [Started("engine", "model", 13, resumable=True), TextDelta("a", 0, (97,)), play.outcome]
    assert completion.text == "a"


@pytest.mark.parametrize("early", [True, False])
async def test_a_poisonous_request_kills_the_process_each_time_that_it_comes(
    early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    kill = {"kill_process": True, "if_prompt": "two"}
    script: list[Any] = [kill, "abc"] if early else ["abc", kill]
    engine = await from_file(*script)
    harmless = GenerateRequest(model="model", prompt="one three")
    assert (await collect(engine.generate(harmless, Context()))).text == "abc"
    assert not killed
    recorder = Recorder()
    task = asyncio.ensure_future(engine.submit(REQUEST, Context(), recorder))
    await eventually(lambda: killed == [(os.getpid(), signal.SIGKILL)])
    assert recorder.text == ("" if early else "abc")
    task.cancel()
    again = await from_file(*script)
    resumed = REQUEST.model_copy(update={"resume": Resume(choices=[[*map(ord, "abc")]])})
    task = asyncio.ensure_future(again.submit(resumed, Context(), Recorder()))
    await eventually(lambda: len(killed) == 2)
    task.cancel()


@pytest.mark.parametrize("early", [True, False])
async def test_a_poisonous_request_makes_the_engine_hang_for_everybody(early: bool) -> None:
    hang = {"hang_engine": True, "if_prompt": "two"}
    script: list[Any] = ["abc", 0.1, "d"]
    engine = await from_file(*([hang, *script] if early else ["abc", hang, 0.1, "d"]))
    bystander, poison, late = Recorder(), Recorder(), Recorder()
    await engine.submit(GenerateRequest(model="model", prompt="one three"), Context(), bystander)
    await eventually(lambda: bystander.text == "abc")
    tasks = [asyncio.ensure_future(engine.submit(REQUEST, Context(), poison))]
    await eventually(lambda: engine.hangs)
    tasks.append(asyncio.ensure_future(engine.submit(REQUEST, Context(), late)))
    await asyncio.sleep(0.2)
    assert (bystander.text, poison.text, late.text) == ("abc", "" if early else "abc", "")
    for task in tasks:
        task.cancel()


async def test_work_that_says_nothing_is_progress_and_a_hang_is_none() -> None:
    script = [Work(work=3, every_s=0.01), Queue(queue_s=0.05), "a", Hang()]
    engine, context = await scripted(script), Context()
    recorder = Recorder()
    await engine.submit(REQUEST, context, recorder)
    begin = engine.progress(context)
    assert begin is not None
    await eventually(lambda: engine.progress(context) == Progress(begin.tokens + 3, scheduled=False))
    assert not recorder.deltas
    await eventually(lambda: recorder.deltas == 1)
    told = Progress(begin.tokens + 4)
    await eventually(lambda: engine.progress(context) == told)
    steps = engine.steps
    assert steps >= 5
    await asyncio.sleep(0.05)
    assert (engine.steps, engine.progress(context)) == (steps, told)
    context.kill()
    assert engine.progress(context) is None
