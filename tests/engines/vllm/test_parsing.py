"""Tool calls and reasoning, as the demo model makes them and vLLM's parsers read them."""

import json
from typing import Any

import pytest

from engines.errors import InvalidRequest
from engines.events import (
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import TIME, WEATHER, answer, ask, chat, counted, ids_of, listen

pytestmark = pytest.mark.asyncio(loop_scope="session")

PARIS = "what is the weather in Paris"
THINK = {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_tool_call(vllm_engine: VllmEngine, choice: Any) -> None:
    made = await answer(vllm_engine, chat(PARIS, tools=[WEATHER, TIME], tool_choice=choice))
    (call,) = made.tool_calls
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "Paris"}
    assert call.id
    assert made.reason == "tool_calls"
    assert made.text == ""


# Without free strings: vLLM's parser takes an end mark inside of a string for the end of the call.
PICK = {
    "type": "function",
    "function": {
        "name": "pick",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "pick"}}])
async def test_a_forced_call_has_arguments_of_its_schema(vllm_engine: VllmEngine, choice: Any) -> None:
    sampling = {"temperature": 2.0, "max_tokens": 200, "n": 16, "seed": 3}
    completion = await ask(vllm_engine, chat("hello", tools=[PICK], tool_choice=choice, sampling=sampling))
    whole = [made for made in completion.choices if made.reason == "tool_calls"]
    assert whole
    for made in whole:
        for call in made.tool_calls:
            assert json.loads(call.arguments).keys() == {"city", "days"}


async def test_tool_call_comes_in_order_and_with_all_ids(vllm_engine: VllmEngine) -> None:
    _, *deltas, finished = await listen(vllm_engine, chat(PARIS, tools=[WEATHER]))
    assert isinstance(finished, Finished)
    kinds = [type(delta) for delta in deltas if not isinstance(delta, TextDelta)]
    assert kinds[0] is ToolCallStarted
    assert kinds[-1] is ToolCallFinished
    assert set(kinds[1:-1]) == {ToolCallArgumentsDelta}
    assert len(ids_of(*deltas)) == finished.usage.completion_tokens


async def test_tools_that_are_not_needed_are_not_called(vllm_engine: VllmEngine) -> None:
    made = await answer(vllm_engine, chat("count from 1 to 5", tools=[WEATHER]))
    assert (made.text, made.tool_calls, made.reason) == (counted(1, 5), (), "stop")


async def test_no_tool_choice_makes_no_call(vllm_engine: VllmEngine) -> None:
    made = await answer(vllm_engine, chat(PARIS, tools=[WEATHER], tool_choice="none"))
    assert made.tool_calls == ()
    assert made.reason == "stop"


async def test_tools_answer_is_read(vllm_engine: VllmEngine) -> None:
    call = (await answer(vllm_engine, chat(PARIS, tools=[WEATHER]))).tool_calls[0]
    function = {"name": call.name, "arguments": call.arguments}
    messages = [
        {"role": "user", "content": PARIS},
        {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "sky": "clear"}'},
    ]
    made = await answer(vllm_engine, chat("", messages=messages, tools=[WEATHER]))
    assert made.reason == "stop"
    assert made.text


async def test_invalid_tool_schema_is_refused(vllm_engine: VllmEngine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "nonsense"}}}
    function = {"name": "f", "parameters": schema, "strict": True}
    tools = [{"type": "function", "function": function}]
    with pytest.raises(InvalidRequest) as refused:
        await ask(vllm_engine, chat("hello", tools=tools, tool_choice="required"))
    assert refused.value.param == "tools"


async def test_reasoning(vllm_engine: VllmEngine) -> None:
    completion = await ask(vllm_engine, chat("what is the capital of France", **THINK))
    choice = completion.choices[0]
    assert "Paris" in choice.text
    assert choice.reasoning
    assert "think" not in choice.reasoning + choice.text
    assert 0 < completion.usage.reasoning_tokens < completion.usage.completion_tokens
    assert len(choice.token_ids) == completion.usage.completion_tokens


async def test_without_thinking_everything_is_the_answer(vllm_engine: VllmEngine) -> None:
    completion = await ask(vllm_engine, chat("what is the capital of France"))
    assert "Paris" in completion.text
    assert completion.choices[0].reasoning == ""
    assert completion.usage.reasoning_tokens == 0


async def test_reasoning_that_is_not_wanted_leaves_its_ids(vllm_engine: VllmEngine) -> None:
    shown = await answer(vllm_engine, chat("what is the capital of France", **THINK))
    events = await listen(vllm_engine, chat("what is the capital of France", include_reasoning=False, **THINK))
    assert not any(isinstance(event, ReasoningDelta) for event in events)
    assert ids_of(*events) == list(shown.token_ids)


async def test_reasoning_before_a_tool_call(vllm_engine: VllmEngine) -> None:
    made = await answer(vllm_engine, chat(PARIS, tools=[WEATHER], **THINK))
    assert made.reasoning
    assert [call.name for call in made.tool_calls] == ["get_weather"]
    assert json.loads(made.tool_calls[0].arguments) == {"city": "Paris"}
