import json

import openai

from engines.errors import InstanceLost
from engines.events import (
    Finished,
    ReasoningDelta,
    RedactedReasoning,
    TextDelta,
    TokenLogprob,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from tests.deployments.http.conftest import HELLO, Serving

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}

AGENT = [
    ReasoningDelta("Let me ", token_ids=(1,)),
    ReasoningDelta("think.", token_ids=(2,)),
    TextDelta("On ", token_ids=(3,)),
    0.01,
    TextDelta("it.", token_ids=(4,)),
    ToolCallStarted(0, "call_1", "add", token_ids=(5,)),
    ToolCallArgumentsDelta(0, '{"a":', token_ids=(6,)),
    ToolCallArgumentsDelta(0, " 1}", token_ids=(7,)),
    ToolCallFinished(0, token_ids=(8,)),
    Finished(("tool_calls",), Usage(10, 8, 4, 2), "demo-0"),
]


def events_of(body: bytes) -> list[dict]:
    lines = body.decode().split("\n\n")
    assert lines.pop() == ""
    assert lines.pop() == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_a_whole_answer_has_openais_shape(serving: Serving) -> None:
    async with serving(AGENT) as served:
        answer = await served.chat(tools=[TOOL])
    assert answer.status == 200
    assert answer.headers["x-penstock-instance"] == "demo-0"
    id = answer.headers["x-request-id"]
    created = answer.json.pop("created")
    assert isinstance(created, int)
    assert answer.json == {
        "id": f"chatcmpl-{id}",
        "object": "chat.completion",
        "model": "demo",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "On it.",
                    "refusal": None,
                    "reasoning_content": "Let me think.",
                    "reasoning": "Let me think.",
                    "tool_calls": [
                        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 8,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        "service_tier": None,
        "system_fingerprint": None,
    }


async def test_a_stream_has_openais_shape(serving: Serving) -> None:
    async with serving(AGENT) as served:
        answer = await served.chat(tools=[TOOL], stream=True, stream_options={"include_usage": True})
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["x-penstock-instance"] == "demo-0"
    id = answer.headers["x-request-id"]
    chunks = events_of(answer.body)
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{id}"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"demo"}
    *chunks, last = chunks
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 18
    assert all(chunk["usage"] is None for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content") or "" for delta in deltas) == "On it."
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "Let me think."
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Let me think."
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert calls[0] == {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "add", "arguments": ""},
    }
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a": 1}'
    finish = chunks[-1]["choices"][0]
    assert finish == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "tool_calls",
        "stop_reason": None,
    }
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])


async def test_the_call_that_was_asked_for_by_name_finishes_with_stop(serving: Serving) -> None:
    asked = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": TOOL["function"]["name"]}}}
    async with serving(AGENT) as served:
        whole = await served.chat(**asked)
        stream = await served.chat(**asked, stream=True)
    assert whole.json["choices"][0]["finish_reason"] == "stop"
    assert events_of(stream.body)[-1]["choices"][0]["finish_reason"] == "stop"


async def test_usage_is_left_out_of_a_stream_unless_asked_for(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        chunks = events_of((await served.chat(stream=True)).body)
    assert all("usage" not in chunk for chunk in chunks)


async def test_continuous_usage_counts_up(serving: Serving) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with serving(["ab", "cde"]) as served:
        chunks = events_of((await served.chat(stream=True, stream_options=options)).body)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk["usage"] is not None]
    assert counts == [2, 5, 5, 5]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks if chunk["usage"]} == {len("hello there")}


async def test_token_ids_are_returned(serving: Serving) -> None:
    async with serving(["ab", "c"]) as served:
        whole = await served.chat(return_token_ids=True)
        chunks = events_of((await served.chat(return_token_ids=True, stream=True)).body)
    ids = [ord(char) for char in "abc"]
    assert whole.json["choices"][0]["token_ids"] == ids
    assert [id for chunk in chunks for id in chunk["choices"][0].get("token_ids", [])] == ids


async def test_logprobs(serving: Serving) -> None:
    top = (TokenLogprob("a", 97, -0.5, b"a"), TokenLogprob("b", 98, float("-inf"), b"b"))
    token = TokenLogprob("a", 97, -0.5, b"a", top)
    expected = {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "b", "logprob": -9999.0, "bytes": [98]},
        ],
    }
    async with serving([TextDelta("a", 0, (97,), (token,)), TextDelta("a", 0, (97,), (token,))]) as served:
        whole = await served.chat(logprobs=True, top_logprobs=2)
        chunks = events_of((await served.chat(logprobs=True, top_logprobs=2, stream=True)).body)
        assert served.engine.requests[0].sampling.logprobs == 2
    assert whole.json["choices"][0]["logprobs"] == {"content": [expected, expected], "refusal": None}
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry for logprobs in found if logprobs for entry in logprobs["content"]] == [expected, expected]


async def test_several_choices(serving: Serving) -> None:
    script = [
        TextDelta("a", 0),
        TextDelta("x", 1),
        TextDelta("b", 0),
        TextDelta("y", 1),
        Finished(("stop", "length"), Usage(1, 4), "demo-0", ("STOP", None)),
    ]
    async with serving(script) as served:
        whole = await served.chat(n=2)
        chunks = events_of((await served.chat(n=2, stream=True)).body)
    assert [choice["message"]["content"] for choice in whole.json["choices"]] == ["ab", "xy"]
    assert [choice["stop_reason"] for choice in whole.json["choices"]] == ["STOP", None]
    for index, text, reason in ((0, "ab", "stop"), (1, "xy", "length")):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == text
        assert mine[-1]["finish_reason"] == reason


async def test_redacted_reasoning_is_passed_on(serving: Serving) -> None:
    async with serving([RedactedReasoning("opaque"), "Hi"]) as served:
        whole = await served.chat()
        chunks = events_of((await served.chat(stream=True)).body)
    assert whole.json["choices"][0]["message"]["redacted_reasoning"] == ["opaque"]
    assert "opaque" in [chunk["choices"][0]["delta"].get("redacted_reasoning") for chunk in chunks]


async def test_only_tool_calls_means_no_content(serving: Serving) -> None:
    async with serving([ToolCallStarted(0, "call_1", "add"), ToolCallFinished(0)]) as served:
        answer = await served.chat(tools=[TOOL])
    assert answer.json["choices"][0]["message"]["content"] is None


async def test_every_parameter_reaches_the_engine(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.chat(
            temperature=0.5,
            top_p=0.9,
            top_k=5,
            min_p=0.1,
            presence_penalty=0.1,
            frequency_penalty=0.2,
            repetition_penalty=1.1,
            seed=7,
            stop="END",
            stop_token_ids=[3],
            include_stop_str_in_output=True,
            bad_words=["bad"],
            allowed_token_ids=[1, 2, 3],
            logit_bias={"5": 1.5},
            min_tokens=2,
            max_tokens=100,
            max_completion_tokens=50,
            ignore_eos=True,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            n=2,
            structured_outputs={"regex": "a+"},
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "add"}},
            parallel_tool_calls=False,
            chat_template_kwargs={"enable_thinking": True},
            reasoning_effort="low",
            include_reasoning=False,
            add_generation_prompt=False,
            continue_final_message=True,
            session_id="s1",
            instance="demo-0",
            priority=3,
            user="u",
            metadata={"a": "b"},
            store=True,
            service_tier="auto",
        )
        assert answer.status == 200, answer.body
        (request,) = served.engine.requests
    sampling = request.sampling
    assert sampling.model_dump(exclude_defaults=True) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "seed": 7,
        "stop": ["END"],
        "stop_token_ids": [3],
        "include_stop_str_in_output": True,
        "bad_words": ["bad"],
        "allowed_token_ids": [1, 2, 3],
        "logit_bias": {5: 1.5},
        "min_tokens": 2,
        "max_tokens": 50,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "n": 2,
        "guided": {"regex": "a+"},
    }
    assert request.tool_choice is not None
    assert request.tool_choice.function.name == "add"
    assert not request.parallel_tool_calls
    assert request.chat_template_kwargs == {"enable_thinking": True}
    assert request.reasoning_effort == "low"
    assert not request.include_reasoning
    assert not request.add_generation_prompt
    assert request.continue_final_message
    assert request.session is not None
    assert request.session.id == "s1"
    assert (request.instance, request.priority) == ("demo-0", 3)


async def test_null_means_not_given(serving: Serving) -> None:
    names = ("temperature", "stop", "logit_bias", "max_tokens", "n", "seed", "tools", "tool_choice", "response_format")
    names += ("stream", "stream_options", "user", "top_logprobs", "audio", "functions")
    async with serving(["Hi"]) as served:
        answer = await served.chat(**dict.fromkeys(names))
        assert answer.status == 200, answer.body
        assert served.engine.requests[0].sampling.model_dump(exclude_defaults=True) == {}


async def test_headers_carry_what_the_body_does_not(serving: Serving) -> None:
    headers = {"x-session-id": "s9", "x-penstock-priority": "-2", "x-penstock-instance": "demo-0"}
    async with serving(["Hi"]) as served:
        body = {"model": "demo", "messages": HELLO}
        await served.post("/v1/chat/completions", body, headers=headers)
        await served.post("/v1/chat/completions", {**body, "session_id": "mine", "priority": 1}, headers=headers)
        first, second = served.engine.requests
    assert (first.session.id, first.priority, first.instance) == ("s9", -2, "demo-0")
    assert (second.session.id, second.priority) == ("mine", 1)


async def test_an_error_in_the_middle_is_said_in_band(serving: Serving) -> None:
    async with serving(["Hel", InstanceLost("The instance died.")]) as served:
        answer = await served.chat(stream=True)
        whole = await served.chat()
    assert answer.status == 200
    *chunks, error = events_of(answer.body)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hel"
    assert error["error"] == {
        "message": "The instance died.",
        "type": "server_error",
        "param": None,
        "code": "instance_lost",
    }
    assert whole.status == 502
    assert whole.json["error"]["code"] == "instance_lost"


async def test_openais_client_reads_it(serving: Serving) -> None:
    async with serving(AGENT) as served:
        client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
        whole = await client.chat.completions.create(model="demo", messages=HELLO, tools=[TOOL])
        assert whole.choices[0].message.content == "On it."
        assert whole.choices[0].message.tool_calls[0].function.arguments == '{"a": 1}'
        assert whole.usage.prompt_tokens_details.cached_tokens == 4
        text, arguments = "", ""
        async with client.chat.completions.stream(model="demo", messages=HELLO, tools=[TOOL]) as stream:
            async for event in stream:
                if event.type == "content.delta":
                    text += event.delta
                elif event.type == "tool_calls.function.arguments.delta":
                    arguments += event.arguments_delta
            final = await stream.get_final_completion()
        assert (text, arguments) == ("On it.", '{"a": 1}')
        assert final.choices[0].finish_reason == "tool_calls"


async def test_openais_client_sees_an_error_in_the_middle(serving: Serving) -> None:
    async with serving(["Hel", InstanceLost("The instance died.")]) as served:
        client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
        stream = await client.chat.completions.create(model="demo", messages=HELLO, stream=True)
        text = ""
        try:
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        except openai.APIError as error:
            assert error.message == "The instance died."
        else:
            raise AssertionError("no error was raised")
        assert text == "Hel"
