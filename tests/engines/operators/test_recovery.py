"""A stream that breaks goes on by what was said already, where its engine knows no token ids."""

import asyncio
from typing import Any

import pytest

from engines.completion import Completion, collect
from engines.context import Context
from engines.errors import (
    Cancelled,
    EngineFailed,
    InstanceLost,
    InvalidRequest,
    NoInstance,
    PenstockError,
    QueueFull,
    Timeout,
)
from engines.events import (
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from engines.operators.link import link
from engines.operators.recovery import Recovered, Recovery, RecoveryOptions
from engines.requests import GenerateRequest, Guided, Sampling
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from tests.contract.asking import Recorder, eventually
from tests.engines.operators.conftest import playing

LOST = InstanceLost("The engine was lost.")
CALL = [ToolCallStarted(0, "call-1", "add"), ToolCallArgumentsDelta(0, '{"a": 1}'), ToolCallFinished(0)]


def asking(**fields: Any) -> GenerateRequest:
    return GenerateRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields)


async def recover(
    *scripts: list[Any], request: GenerateRequest | None = None, **options: Any
) -> tuple[Completion, ScriptedEngine, list[str]]:
    engine, outcomes = await playing("e", *scripts), []  # type: ignore[var-annotated]
    recovery = Recovery(RecoveryOptions(**options))
    recovery.report = lambda report: outcomes.append(report.outcome)
    completion = await collect(link(recovery, engine).generate(request or asking(), Context()))
    return completion, engine, outcomes


async def test_before_anything_was_said_it_starts_over() -> None:
    completion, engine, outcomes = await recover([0, LOST], ["one two"])
    assert (completion.text, outcomes, len(engine.requests)) == ("one two", ["restarted"], 2)
    assert engine.requests[0] == engine.requests[1]


async def test_text_is_gone_on_from() -> None:
    completion, engine, outcomes = await recover(["one ", "two ", LOST], ["three"])
    assert (completion.text, outcomes) == ("one two three", ["continued"])
    again = engine.requests[1]
    assert again.messages is not None and (again.messages[-1].role, again.messages[-1].content) == (
        "assistant",
        "one two ",
    )
    assert (again.continue_final_message, again.add_generation_prompt) == (True, False)
    assert completion.usage.completion_tokens == len("one two three")


async def test_a_prompt_and_a_message_that_is_gone_on_with_grow_by_the_text() -> None:
    prompt = GenerateRequest(model="m", prompt="once ")
    _, engine, _ = await recover(["one ", LOST], ["two"], request=prompt)
    assert engine.requests[1].prompt == "once one "
    prefilled = asking(
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "zero "}],
        continue_final_message=True,
        add_generation_prompt=False,
    )
    _, engine, _ = await recover(["one ", LOST], ["two"], request=prefilled)
    messages = engine.requests[1].messages
    assert messages is not None and [message.content for message in messages] == ["hi", "zero one "]


async def test_the_budget_of_tokens_is_one() -> None:
    limited = asking(sampling={"max_tokens": 10})
    _, engine, _ = await recover(["abcd", LOST], ["ef"], request=limited)
    assert engine.requests[1].sampling.max_tokens == 6
    used_up, engine, _ = await recover(["abcdefghij", LOST], ["k"], request=limited)
    assert (used_up.choices[0].reason, used_up.text, len(engine.requests)) == ("length", "abcdefghij", 1)


async def test_after_a_finished_tool_call_it_ends_there() -> None:
    completion, engine, outcomes = await recover(["I add. ", *CALL, LOST], ["never"])
    choice = completion.choices[0]
    assert (choice.text, choice.reason, outcomes) == ("I add. ", "tool_calls", ["ended_as_tool_call"])
    assert [(call.name, call.arguments) for call in choice.tool_calls] == [("add", '{"a": 1}')]
    assert len(engine.requests) == 1


async def test_a_tool_call_that_was_not_finished_was_never_said() -> None:
    second = [ToolCallStarted(0, "call-2", "mul"), ToolCallArgumentsDelta(0, "{}"), ToolCallFinished(0)]
    completion, _, outcomes = await recover([*CALL[:2], LOST], second)
    assert [(call.id, call.name) for call in completion.choices[0].tool_calls] == [("call-2", "mul")]
    assert outcomes == ["restarted"]


async def test_reasoning_is_heard_once() -> None:
    completion, _, outcomes = await recover(
        [ReasoningDelta("hm "), LOST], [ReasoningDelta("hm again "), TextDelta("yes")]
    )
    assert (completion.choices[0].reasoning, completion.text, outcomes) == ("hm ", "yes", ["restarted"])


async def test_the_budget_of_recoveries() -> None:
    completion, _, outcomes = await recover(["a", LOST], ["b", LOST], ["c"], limit=2)
    assert (completion.text, outcomes) == ("abc", ["continued"] * 2)
    with pytest.raises(InstanceLost):
        await recover(["a", LOST], ["b", LOST], ["c"], limit=1)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (asking(sampling=Sampling(guided=Guided(json_object=True))), LOST),
        (asking(sampling=Sampling(n=2)), LOST),
        (GenerateRequest(model="m", prompt_token_ids=[1]), LOST),
        (asking(), InvalidRequest("no")),
        (asking(), Timeout("total", 1.0)),
    ],
)
async def test_what_cannot_be_gone_on_with_fails_as_it_did(request_: GenerateRequest, error: PenstockError) -> None:
    with pytest.raises(type(error)) as caught:
        await recover([TextDelta("one "), TextDelta("x", 0), error], ["two"], request=request_)
    assert caught.value.message == error.message


async def test_when_nobody_takes_the_rest_it_says_both_reasons() -> None:
    with pytest.raises(InstanceLost) as caught:
        await recover(["one ", LOST], [QueueFull("It is full.", retry_after_s=3.0)])
    assert "was lost" in caught.value.message and "is full" in caught.value.message
    assert caught.value.retry_after_s == 3.0


async def test_what_a_foreign_exception_says_of_the_next_run_is_for_the_log() -> None:
    with pytest.raises(InstanceLost) as caught:
        await recover(["one ", LOST], [EngineFailed("OSError: at /secret/model.bin")])
    assert caught.value.message.endswith("The answer could not be gone on with: The engine failed on this request.")
    assert "/secret/model.bin" in caught.value.private


async def test_a_setup_error_is_the_callers() -> None:
    with pytest.raises(NoInstance):
        await recover([NoInstance("none")], ["one"])


async def test_a_stream_that_falls_silent_counts_as_broken_and_reasoning_has_twice_as_long() -> None:
    completion, engine, outcomes = await recover(["one ", Hang()], ["two"], idle_s=0.3)
    assert (completion.text, outcomes) == ("one two", ["continued"])
    await eventually(lambda: engine.load().running == 0)
    thoughtful = [ReasoningDelta("hm "), 0.6, "one"]
    completion, _, outcomes = await recover(thoughtful, ["two"], idle_s=0.4)
    assert (completion.text, outcomes) == ("one", [])


@pytest.mark.parametrize("cancel", [Context.stop, Context.kill])
async def test_its_caller_may_end_it_while_it_is_being_recovered(cancel: Any) -> None:
    engine = await playing("e", ["one ", LOST], [Hang()])
    recorder, context = Recorder(), Context()
    recovery = Recovery()
    reports: list[Recovered] = []
    recovery.report = reports.append
    await link(recovery, engine).submit(asking(), context, recorder)
    await eventually(lambda: len(engine.requests) == 2)
    cancel(context)
    await recorder.over()
    await asyncio.sleep(0)
    assert recorder.text == "one " and engine.load().running == 0
    if cancel is Context.kill:
        assert isinstance(recorder.error, Cancelled)
    else:
        assert recorder.finished is not None and recorder.finished.reason == "cancelled"
