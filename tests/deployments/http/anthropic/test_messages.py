"""Anthropic's own client asks, unmodified: whole answers, streams, tools, structured output, counts."""

import json
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from engines.contract import Capabilities
from engines.events import (
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from engines.requests import Guided
from engines.scripted.engine import ScriptedEngine
from tests.deployments.http.anthropic.talking import ADD, PATH, ask, client, events_of
from tests.deployments.http.conftest import HELLO, Serving

AGENT = [
    ReasoningDelta("Let me ", token_ids=(1,)),
    ReasoningDelta("think.", token_ids=(2,)),
    TextDelta("On ", token_ids=(3,)),
    TextDelta("it.", token_ids=(4,)),
    ToolCallStarted(0, "call_1", "add", token_ids=(5,)),
    ToolCallArgumentsDelta(0, '{"a":', token_ids=(6,)),
    ToolCallArgumentsDelta(0, " 1}", token_ids=(7,)),
    ToolCallFinished(0, token_ids=(8,)),
    ToolCallStarted(1, "call_2", "add"),
    ToolCallArgumentsDelta(1, "{}"),
    ToolCallFinished(1),
    Finished(("tool_calls",), Usage(10, 8, 4, 2), "demo-0"),
]
ASKED: dict[str, Any] = {"model": "demo", "max_tokens": 100, "messages": HELLO}


def check_agent(message: Any) -> None:
    thinking, text, call, other = message.content
    assert (thinking.type, thinking.thinking) == ("thinking", "Let me think.")
    assert (text.type, text.text) == ("text", "On it.")
    assert (call.type, call.id, call.name, call.input) == ("tool_use", "call_1", "add", {"a": 1})
    assert (other.id, other.input) == ("call_2", {})
    assert (message.role, message.model, message.stop_reason, message.stop_sequence) == (
        "assistant",
        "demo",
        "tool_use",
        None,
    )
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (6, 4, 0)
    assert (usage.output_tokens, usage.output_tokens_details.thinking_tokens) == (8, 2)


@pytest.mark.parametrize("is_beta", [False, True], ids=["messages", "beta"])
async def test_the_same_answer_whole_and_as_a_stream(serving: Serving, is_beta: bool) -> None:
    async with serving(AGENT) as served, client(served) as opened:
        api: Any = opened
        messages = (api.beta if is_beta else api).messages
        whole = await messages.create(**ASKED, tools=[ADD])
        check_agent(whole)
        assert whole.id == f"msg_{whole._request_id}"
        types, signed = [], ""
        async with messages.stream(**ASKED, tools=[ADD]) as stream:
            async for event in stream:
                types.append(event.type)
                signed = event.signature if event.type == "signature" else signed
            streamed = await stream.get_final_message()
        check_agent(streamed)
        assert streamed.content[0].signature == whole.content[0].signature == signed
        block = ["content_block_start", "content_block_delta", "content_block_stop"]
        raw = [event for event in types if event.startswith(("message", "content_block"))]
        assert list(dict.fromkeys(raw)) == ["message_start", *block, "message_delta", "message_stop"]
        assert {"thinking", "signature", "text", "input_json"} < set(types)
        raw_events = [event.type async for event in await messages.create(**ASKED, tools=[ADD], stream=True)]
        assert raw_events[0] == "message_start" and raw_events[-1] == "message_stop"


async def test_text_alone(serving: Serving) -> None:
    async with serving(["Hello ", "there"]) as served:
        async with client(served) as api, api.messages.stream(**ASKED) as stream:
            assert [piece async for piece in stream.text_stream] == ["Hello ", "there"]
        answer = await ask(served, stream=True)
        start, *_ = events = events_of(answer.body)
        assert b"event: ping" in answer.body
        assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert start["message"]["content"] == [] and start["message"]["stop_reason"] is None
    assert start["message"]["usage"]["input_tokens"] == len("hello there")
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_a_turn_goes_back_as_it_came_with_the_results_of_its_calls(serving: Serving) -> None:
    async with serving(AGENT) as served, client(served) as api:
        first = await api.messages.create(**ASKED, tools=[ADD])
        results: Any = [
            {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "one"}]},
            {"type": "tool_result", "tool_use_id": "call_2", "content": "two", "is_error": True},
            {"type": "text", "text": "go on"},
        ]
        conversation: Any = [*HELLO, first.to_param(), {"role": "user", "content": results}]
        check_agent(await api.messages.create(**{**ASKED, "messages": conversation}, tools=[ADD]))
        messages = [message.for_template() for message in served.engine.requests[-1].messages]
    assert messages[0] == HELLO[0]
    calls = [("call_1", '{"a": 1}'), ("call_2", "{}")]
    assert messages[1] == {
        "role": "assistant",
        "content": "On it.",
        "reasoning_content": "Let me think.",
        "tool_calls": [
            {"id": id, "type": "function", "function": {"name": "add", "arguments": arguments}}
            for id, arguments in calls
        ],
    }
    assert messages[2:] == [
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {"role": "tool", "tool_call_id": "call_2", "content": "two", "is_error": True},
        {"role": "user", "content": "go on"},
    ]


async def test_every_parameter_reaches_the_engine(serving: Serving) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with serving(["Hi"]) as served:
        answer = await ask(
            served,
            max_tokens=50,
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            stop_sequences=["END"],
            temperature=0,
            top_p=0.9,
            top_k=5,
            tools=[{**ADD, "description": "Adds.", "strict": True, "cache_control": {"type": "ephemeral"}}],
            tool_choice={"type": "tool", "name": "add", "disable_parallel_tool_use": True},
            thinking={"type": "adaptive"},
            output_config={"effort": "high", "format": {"type": "json_schema", "schema": schema}},
            metadata={"user_id": "somebody"},
            service_tier="auto",
            cache_control={"type": "ephemeral", "ttl": "1h"},
            container=None,
            mcp_servers=[],
            session_id="s1",
            instance="demo-0",
            priority=3,
        )
        assert answer.status == 200, answer.body
        (request,) = served.engine.requests
    assert request.sampling.model_dump(exclude_defaults=True) == {
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 5,
        "stop": ["END"],
        "max_tokens": 50,
        "clip_max_tokens": True,
        "guided": {"json_schema": schema},
    }
    assert request.sampling.guided == Guided(json_schema=schema)
    (system, _) = request.messages
    assert system.for_template() == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    (tool,) = request.tools
    assert tool.function.model_dump() == {
        "name": "add",
        "description": "Adds.",
        "parameters": ADD["input_schema"],
        "strict": True,
    }
    assert request.tool_choice.function.name == "add" and not request.parallel_tool_calls
    assert request.thinking.enabled and request.thinking.budget_tokens is None
    assert request.reasoning_effort == "high"
    assert request.session.id == "s1" and request.priority == 3


CHOICES = [("auto", "auto"), ("any", "required"), ("none", "none")]


@pytest.mark.parametrize(("asked", "given"), CHOICES, ids=[asked for asked, _ in CHOICES])
async def test_tool_choices(serving: Serving, asked: str, given: str) -> None:
    async with serving(["Hi"]) as served:
        assert (await ask(served, tools=[ADD], tool_choice={"type": asked})).status == 200
        assert served.engine.requests[0].tool_choice == given


async def test_a_begun_answer_is_gone_on_with(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        assert (await ask(served, messages=[*HELLO, {"role": "assistant", "content": "The answer is"}])).status == 200
        (request,) = served.engine.requests
    assert request.continue_final_message and not request.add_generation_prompt


REASONS: list[tuple[FinishReason, str | None, int, str, str | None]] = [
    ("stop", None, 0, "end_turn", None),
    ("stop", "END", 0, "stop_sequence", "END"),
    ("length", None, 0, "max_tokens", None),
    ("length", None, 14, "model_context_window_exceeded", None),
    ("length", None, 15, "max_tokens", None),
    ("content_filter", None, 0, "refusal", None),
]


@pytest.mark.parametrize(("reason", "stop", "context", "said", "sequence"), REASONS)
async def test_why_it_ended(
    serving: Serving, reason: FinishReason, stop: str | None, context: int, said: str, sequence: str | None
) -> None:
    script = ["Hi", Finished((reason,), Usage(10, 4), "demo-0", (stop,))]
    engine = ScriptedEngine("demo-0", script=script, capabilities=Capabilities(context_length=context))
    async with serving(engines=[engine]) as served:
        whole = (await ask(served, stop_sequences=["END"])).json
        delta = events_of((await ask(served, stream=True)).body)[-2]["delta"]
    assert (whole["stop_reason"], whole["stop_sequence"]) == (said, sequence)
    assert (delta["stop_reason"], delta["stop_sequence"]) == (said, sequence)


async def test_an_answer_that_says_nothing_is_a_message(serving: Serving) -> None:
    async with serving([]) as served:
        assert (await ask(served)).json["content"] == []
        assert [event["type"] for event in events_of((await ask(served, stream=True)).body)] == [
            "message_start",
            "message_delta",
            "message_stop",
        ]


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", '{"a": NaN}', "{" * 5000], ids=["cut", "list", "nan", "deep"])
async def test_arguments_that_are_no_object_are_told_as_the_text_that_they_are(
    serving: Serving, arguments: str
) -> None:
    script = [
        ToolCallStarted(0, "call_1", "add"),
        ToolCallArgumentsDelta(0, arguments),
        Finished(("length",), Usage(1, 1), "demo-0"),
    ]
    async with serving(script) as served:
        answer = (await ask(served, tools=[ADD])).json
    assert answer["content"][0]["input"] == {"INVALID_JSON": arguments}


class Person(BaseModel):
    name: str
    age: int


async def test_structured_output_is_parsed_by_the_client(serving: Serving) -> None:
    async with serving(['{"name": "Alice", "age": 3}']) as served, client(served) as api:
        parsed = await api.messages.parse(**ASKED, output_format=Person)
        assert parsed.parsed_output == Person(name="Alice", age=3)
        async with api.messages.stream(**ASKED, output_format=Person) as stream:
            assert (await stream.get_final_message()).parsed_output == parsed.parsed_output
        guided = served.engine.requests[0].sampling.guided
    assert guided.json_schema["properties"].keys() == {"name", "age"}


async def test_tokens_are_counted(serving: Serving) -> None:
    async with serving() as served, client(served) as api:
        text: Any = "hello there"
        counted = await api.messages.count_tokens(
            model="demo", messages=HELLO, system=text, tools=[ADD], thinking={"type": "disabled"}
        )
        assert counted.input_tokens == len(text)
        beta: Any = api.beta.messages
        assert (await beta.count_tokens(model="demo", messages=HELLO)).input_tokens == len(text)


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", None])
async def test_versions_that_are_spoken(serving: Serving, version: str | None) -> None:
    headers = {} if version is None else {"anthropic-version": version, "anthropic-beta": "a,b"}
    async with serving(["Hi"]) as served:
        assert (await served.post(PATH, ASKED, headers=headers)).status == 200
        answer = await served.post(PATH, ASKED, headers={"anthropic-version": "2023-01-01"})
    assert answer.status == 400 and answer.json["error"]["message"].startswith("anthropic-version: ")


async def test_tools_run_in_the_clients_own_loop(serving: Serving) -> None:
    """Its tool runner: the client asks again with the results until no tool is called any more."""

    def script(request: Any) -> list[Any]:
        if request.messages[-1].role == "tool":
            return [f"It is {request.messages[-1].content}."]
        return [*AGENT[4:8], Finished(("tool_calls",), Usage(1, 1), "demo-0")]

    @anthropic.beta_async_tool
    async def add(a: int) -> str:
        """Adds one.

        Args:
            a: To what.
        """
        return json.dumps(a + 1)

    async with serving(script) as served, client(served) as api:
        runner = api.beta.messages.tool_runner(model="demo", max_tokens=100, messages=HELLO, tools=[add])  # type: ignore[arg-type]
        final: Any = await runner.until_done()
    assert final.content[0].text == "It is 2."
