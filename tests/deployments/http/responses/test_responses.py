"""OpenAI's own client asks, unmodified: whole answers, streams, tools, structured output, counts."""

from hashlib import sha256
from typing import Any

import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from engines.contract import Capabilities
from engines.errors import InstanceLost, Timeout
from engines.events import (
    Finished,
    FinishReason,
    ReasoningDelta,
    RedactedReasoning,
    TextDelta,
    TokenLogprob,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from engines.registry import EngineSpec
from engines.requests import Guided
from engines.scripted.engine import ScriptedEngine, ScriptedOptions
from tests.deployments.http.conftest import Serving
from tests.deployments.http.responses.talking import ADD, ASKED, SHELL, ask, checked, client, events_of
from tests.engines.attachments.pictures import PDF, document, image, png

AGENT = [
    ReasoningDelta("Let me ", token_ids=(1,)),
    ReasoningDelta("think.", token_ids=(2,)),
    TextDelta("On ", token_ids=(3,)),
    TextDelta("it.", token_ids=(4,)),
    ToolCallStarted(0, "call_1", "add", token_ids=(5,)),
    ToolCallArgumentsDelta(0, '{"a":', token_ids=(6,)),
    ToolCallArgumentsDelta(0, " 1}", token_ids=(7,)),
    ToolCallFinished(0, token_ids=(8,)),
    ToolCallStarted(1, "call_2", "shell"),
    ToolCallArgumentsDelta(1, '{"input": "ls\\n'),
    ToolCallArgumentsDelta(1, '-l"}'),
    ToolCallFinished(1),
    Finished(("tool_calls",), Usage(10, 8, 4, 2), "demo-0"),
]
USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello there"}]}


def check_agent(response: Any) -> None:
    reasoning, message, call, custom = response.output
    assert (reasoning.type, reasoning.content[0].text, reasoning.summary) == ("reasoning", "Let me think.", [])
    assert (message.type, message.content[0].text, message.status) == ("message", "On it.", "completed")
    assert (call.type, call.call_id, call.name, call.arguments) == ("function_call", "call_1", "add", '{"a": 1}')
    assert (custom.type, custom.call_id, custom.name, custom.input) == ("custom_tool_call", "call_2", "shell", "ls\n-l")
    assert (response.status, response.model, response.object) == ("completed", "demo", "response")
    usage = response.usage
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens) == (10, 4)
    assert (usage.output_tokens, usage.output_tokens_details.reasoning_tokens, usage.total_tokens) == (8, 2, 18)


async def test_the_same_answer_whole_and_as_a_stream(serving: Serving) -> None:
    tools: Any = [ADD, SHELL]
    async with serving(AGENT) as served, client(served) as api:
        whole = await api.responses.create(**ASKED, tools=tools)
        check_agent(whole)
        assert whole.output_text == "On it."
        assert [tool.type for tool in whole.tools] == ["function", "custom"]
        deltas: dict[str, str] = {}
        async with api.responses.stream(**ASKED, tools=tools) as stream:
            async for event in stream:
                if event.type.endswith(".delta"):
                    deltas[event.type] = deltas.get(event.type, "") + event.delta
            check_agent(await stream.get_final_response())
        assert deltas == {
            "response.reasoning_text.delta": "Let me think.",
            "response.output_text.delta": "On it.",
            "response.function_call_arguments.delta": '{"a": 1}',
            "response.custom_tool_call_input.delta": "ls\n-l",
        }
        raw = [event async for event in await api.responses.create(**ASKED, tools=tools, stream=True)]
        assert [raw[0].type, raw[1].type, raw[-1].type] == [
            "response.created",
            "response.in_progress",
            "response.completed",
        ]
        assert whole._request_id


async def test_text_alone(serving: Serving) -> None:
    async with serving(["Hello ", "there"]) as served:
        answer = await ask(served, stream=True)
        whole = checked((await ask(served)).json)
    events = events_of(answer.body)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    response = events[-1]["response"]
    ids = {"id", "created_at", "completed_at", "output"}
    assert {name: response[name] for name in response.keys() - ids} == {
        name: whole[name] for name in whole.keys() - ids
    }
    assert response["id"] != whole["id"] and response["store"] is False
    assert events[0]["response"]["usage"] is None


async def test_an_answer_goes_back_as_it_came_with_the_outputs_of_its_calls(serving: Serving) -> None:
    tools: Any = [ADD, SHELL]
    async with serving(AGENT) as served, client(served) as api:
        first = await api.responses.create(**ASKED, tools=tools, include=["reasoning.encrypted_content"])
        said = [item.model_dump() for item in first.output]
        # What is encrypted goes before what stands beside it.
        said[0]["content"] = None
        outputs: Any = [
            {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "one"}]},
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": "two"},
            {"role": "user", "content": "go on"},
        ]
        check_agent(await api.responses.create(model="demo", input=[USER, *said, *outputs], tools=tools))
        messages = [message.for_template() for message in served.engine.requests[-1].messages]
    calls = [("call_1", "add", '{"a": 1}'), ("call_2", "shell", '{"input": "ls\\n-l"}')]
    assert messages == [
        {"role": "user", "content": "hello there"},
        {
            "role": "assistant",
            "content": "On it.",
            "reasoning_content": "Let me think.",
            "tool_calls": [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id, name, arguments in calls
            ],
        },
        {"role": "tool", "content": "one", "tool_call_id": "call_1"},
        {"role": "tool", "content": "two", "tool_call_id": "call_2"},
        {"role": "user", "content": "go on"},
    ]


async def test_every_parameter_reaches_the_engine(serving: Serving) -> None:
    async with serving(["Hi"]) as served, client(served) as api:
        response = await api.responses.create(
            model="demo",
            input=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hello"}],
            instructions="Be kind.",
            max_output_tokens=7,
            temperature=0.5,
            top_p=0.25,
            top_logprobs=2,
            tools=[ADD],
            tool_choice="required",
            parallel_tool_calls=False,
            reasoning={"effort": "low", "summary": "auto"},
            metadata={"a": "b"},
            max_tool_calls=3,
            store=False,
            truncation="disabled",
            service_tier="auto",
            user="somebody",
            prompt_cache_key="key",
            text={"verbosity": "low"},
            extra_body={"session_id": "s", "priority": 3},
        )
        (request,) = served.engine.requests
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be kind."),
        ("developer", "Be brief."),
        ("user", "hello"),
    ]
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.clip_max_tokens, sampling.temperature, sampling.top_p) == (7, True, 0.5, 0.25)
    assert (sampling.logprobs, request.reasoning_effort, request.tool_choice) == (2, "low", "required")
    assert (request.parallel_tool_calls, request.session.id, request.priority) == (False, "s", 3)
    assert request.tools[0].for_template() == {
        "type": "function",
        "function": {"name": "add", "parameters": ADD["parameters"], "strict": False},
    }
    assert (response.instructions, response.max_output_tokens, response.max_tool_calls) == ("Be kind.", 7, 3)
    assert (response.temperature, response.top_p, response.top_logprobs) == (0.5, 0.25, 2)
    assert (response.metadata, response.user, response.prompt_cache_key) == ({"a": "b"}, "somebody", "key")
    assert response.reasoning is not None and response.reasoning.effort == "low"
    assert response.tool_choice == "required" and response.parallel_tool_calls is False


@pytest.mark.parametrize(
    ("choice", "given", "left"),
    [
        ("auto", "auto", ["add", "shell"]),
        ("none", "none", ["add", "shell"]),
        ({"type": "function", "name": "add"}, "add", ["add", "shell"]),
        ({"type": "custom", "name": "shell"}, "shell", ["add", "shell"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "shell"}]}, "auto", ["shell"]),
        ({"type": "allowed_tools", "mode": "required", "tools": []}, "none", []),
    ],
    ids=str,
)
async def test_tool_choices(serving: Serving, choice: Any, given: str, left: list[str]) -> None:
    async with serving(["Hi"]) as served:
        answer = await ask(served, tools=[ADD, SHELL], tool_choice=choice)
        assert checked(answer.json)["tool_choice"] == choice
        (request,) = served.engine.requests
    asked = request.tool_choice
    assert (asked if isinstance(asked, str) else asked.function.name) == given
    assert [tool.function.name for tool in request.tools] == left


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
        ("cancelled", "incomplete", None),
    ],
)
async def test_why_it_ended(serving: Serving, reason: FinishReason, status: str, why: str | None) -> None:
    async with serving(["Hi", Finished((reason,), Usage(1, 1), "demo-0")]) as served:
        whole = checked((await ask(served)).json)
        *_, last = events_of((await ask(served, stream=True)).body)
    for response in (whole, last["response"]):
        assert response["status"] == response["output"][0]["status"] == status
        assert response["incomplete_details"] == (None if why is None else {"reason": why})
    assert last["type"] == f"response.{status}"


async def test_an_answer_that_says_nothing_is_a_response(serving: Serving) -> None:
    async with serving([Finished(("stop",), Usage(1, 1), "demo-0")]) as served:
        assert checked((await ask(served)).json)["output"] == []


async def test_log_probabilities(serving: Serving) -> None:
    top = (TokenLogprob("Hi", 1, -0.5, b"Hi"), TokenLogprob("Ho", 2, float("-inf"), b"Ho"))
    script = [TextDelta("Hi", token_ids=(1,), logprobs=(TokenLogprob("Hi", 1, -0.5, b"Hi", top),)), TextDelta("!")]
    async with serving(script) as served, client(served) as api:
        response = await api.responses.create(**ASKED, include=["message.output_text.logprobs"], top_logprobs=2)
        events = events_of((await ask(served, include=["message.output_text.logprobs"], stream=True)).body)
        assert [request.sampling.logprobs for request in served.engine.requests] == [2, 0]
    (logprob,) = response.output[0].content[0].logprobs
    assert (logprob.token, logprob.logprob, logprob.bytes) == ("Hi", -0.5, [72, 105])
    assert [(other.token, other.logprob) for other in logprob.top_logprobs] == [("Hi", -0.5), ("Ho", -9999.0)]
    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert [len(found) for found in deltas] == [1, 0]


async def test_structured_output_is_parsed_by_the_client(serving: Serving) -> None:
    class Person(BaseModel):
        name: str

    async with serving(['{"name": "Alice"}']) as served, client(served) as api:
        parsed = await api.responses.parse(**ASKED, text_format=Person)
        assert parsed.output_parsed == Person(name="Alice")
        async with api.responses.stream(**ASKED, text_format=Person) as stream:
            assert (await stream.get_final_response()).output_parsed == Person(name="Alice")
        await ask(served, text={"format": {"type": "json_object"}})
        guided = [request.sampling.guided for request in served.engine.requests]
    assert guided[0] == guided[1] and guided[0].json_schema["properties"]["name"]["type"] == "string"
    assert guided[2] == Guided(json_object=True)


async def test_what_only_a_provider_can_read_goes_back_to_it(serving: Serving) -> None:
    async with serving([RedactedReasoning("opaque"), "Hi"]) as served:
        first = checked((await ask(served)).json)
        reasoning = first["output"][0]
        assert reasoning["content"] == [] and "opaque" not in reasoning["encrypted_content"]
        answer = await ask(served, input=[USER, *first["output"], {"role": "user", "content": "go on"}])
        assert answer.status == 200
        message = served.engine.requests[-1].messages[1].for_template()
    assert message["redacted_reasoning"] == ["opaque"] and message["content"] == "Hi"


async def test_images_and_documents_reach_a_model_that_reads_them(serving: Serving) -> None:
    options = ScriptedOptions.model_validate({"script": [{"echo": True}], "attachments": True})
    engine = ScriptedEngine("demo-0", EngineSpec(kind="scripted", model="demo"), options)
    parts = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": image(png())["image_url"]["url"], "detail": "original"},
        {"type": "input_file", "file_data": document(PDF)["file"]["file_data"], "filename": "a.pdf"},
    ]
    async with serving(engines=[engine]) as served:
        response = checked((await ask(served, input=[{"role": "user", "content": parts}])).json)
        bad = {"type": "input_image", "image_url": image(b"GIF89a")["image_url"]["url"]}
        refused = await ask(served, input=[{"role": "user", "content": [parts[0], bad]}])
    named = [("image/png", png()), ("application/pdf", PDF)]
    digests = [f"{name}:{sha256(data).hexdigest()}" for name, data in named]
    assert response["output"][0]["content"][0]["text"] == " ".join(["look", *digests])
    assert refused.json["error"]["param"] == "input[0].content[1].image_url"


async def test_tokens_are_counted(serving: Serving) -> None:
    engine = ScriptedEngine("demo-0", script=["Hi"], capabilities=Capabilities(tokenize=True))
    async with serving(engines=[engine]) as served, client(served) as api:
        counted = await api.responses.input_tokens.count(**ASKED, instructions="Be kind.", tools=[ADD])
        whole = await api.responses.create(**ASKED)
    assert counted.object == "response.input_tokens"
    assert isinstance(whole, Response) and counted.input_tokens >= len("hello there")


async def test_an_error_in_a_stream_ends_it(serving: Serving) -> None:
    async with serving(["Hi", 0.01, InstanceLost("It died.")]) as served:
        answer = await ask(served, stream=True)
    async with serving(["Hi", 0.01, Timeout("total", 3)]) as served:
        whole = await ask(served)
    *_, last = events_of(answer.body)
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "It died."}
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert (whole.status, whole.json["error"]["code"]) == (504, "timeout")
