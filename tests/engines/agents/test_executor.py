"""An agent loop's executor: defaults that a call overrides field by field, and what is kept of each answer."""

from typing import Any

import pytest

from engines.agents.completion_client import CompletionClient
from engines.agents.executor import ChatOptions, ChatResponse, LlmExecutor
from engines.agents.scripted_model import ScriptedModel
from engines.errors import InvalidRequest, NoInstance, Timeout
from engines.events import (
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from engines.requests import Session
from engines.scripted.script import Hang
from tests.engines.operators.conftest import playing

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ANSWER = [
    ReasoningDelta("hm "),
    TextDelta("well"),
    ToolCallStarted(0, "call-1", "add"),
    ToolCallArgumentsDelta(0, "{}"),
    ToolCallFinished(0),
]


async def executor(**options: Any) -> LlmExecutor:
    return LlmExecutor(CompletionClient(await playing("e", ANSWER)), ChatOptions(**options))


async def test_a_response_has_all_but_the_raw_body() -> None:
    response = await (await executor()).exec_chat_response("m", HELLO)
    assert (response.content, response.reasoning, response.model, response.engine) == ("well", "hm ", "m", "e")
    assert response.tool_calls is not None and [call.name for call in response.tool_calls] == ["add"]
    assert response.usage is not None and response.raw_body is None


@pytest.mark.parametrize(
    ("switch", "field"),
    [
        ("capture_usage", "usage"),
        ("capture_content", "content"),
        ("capture_reasoning", "reasoning"),
        ("capture_tool_calls", "tool_calls"),
    ],
)
async def test_each_capture_has_a_switch_of_its_own(switch: str, field: str) -> None:
    response = await (await executor(**{switch: False})).exec_chat_response("m", HELLO)
    kept = {name for name in ("usage", "content", "reasoning", "tool_calls") if getattr(response, name) is not None}
    assert kept == {"usage", "content", "reasoning", "tool_calls"} - {field}


async def test_the_raw_body_is_every_event() -> None:
    response = await (await executor()).exec_chat_response("m", HELLO, ChatOptions(capture_raw_body=True))
    assert response.raw_body is not None
    assert [type(event) for event in response.raw_body] == [Started, *map(type, ANSWER), Finished]


async def test_events_come_as_they_are_and_what_was_kept_comes_last() -> None:
    events = [event async for event in (await executor()).exec_chat_stream_events("m", HELLO)]
    assert [type(event) for event in events] == [Started, *map(type, ANSWER), Finished, ChatResponse]


async def test_options_override_defaults_field_by_field() -> None:
    engine = await playing("e", ["hi"])
    runs = LlmExecutor(CompletionClient(engine), ChatOptions(temperature=0.5, max_tokens=7, session=Session(id="s")))
    request = {**HELLO, "sampling": {"top_p": 0.9, "temperature": 1.0}}
    await runs.exec_chat_response("m", request, ChatOptions(temperature=0.0))
    asked = engine.requests[0]
    assert (asked.sampling.temperature, asked.sampling.max_tokens, asked.sampling.top_p) == (0.0, 7, 0.9)
    assert asked.session == Session(id="s")
    await runs.exec_chat_response("m", request)
    assert engine.requests[1].sampling.temperature == 0.5
    with pytest.raises(InvalidRequest):
        await runs.exec_chat_response("m", request, ChatOptions(temperature=-1.0))


async def test_it_takes_handles_has_a_name_and_a_time_limit() -> None:
    runs = LlmExecutor(CompletionClient(await playing("e", ["one ", Hang()])), name="agent")
    assert runs.name == "agent" and (await executor()).name == "e"
    assert (await runs.exec_chat_response(ScriptedModel(["mine"]), HELLO)).content == "mine"
    with pytest.raises(NoInstance):
        await runs.exec_chat_response(ScriptedModel([NoInstance("none")]), HELLO)
    with pytest.raises(Timeout):
        await runs.exec_chat_response("m", HELLO, ChatOptions(timeout_s=0.05))
