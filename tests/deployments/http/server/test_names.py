"""Errors name fields as the caller wrote them, whoever finds them."""

from typing import Any

import pytest

from deployments.http.openai.chat_body import parse_chat
from deployments.http.openai.completion_body import parse_completion
from deployments.http.server.hints import DispatchHints
from deployments.http.server.names import Names
from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.errors import InvalidRequest, Unsupported
from engines.registry import EngineSpec, make_engine
from engines.scripted.engine import ScriptedEngine
from tests.deployments.http.conftest import HELLO, Serving

SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
HEADERS = DispatchHints(session_id="s", instance="i", priority=1, session_header="x-session-id")


class Refuses(ScriptedEngine):
    """An engine that says the same to everything."""

    def __init__(self, name: str, *, script: Any, error: Any) -> None:
        super().__init__(name, script=script)
        self._error = error

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        raise self._error


def chat_names(body: dict[str, Any], hints: DispatchHints) -> Names:
    return parse_chat({"model": "demo", "messages": HELLO, **body}, hints)[1].names


@pytest.mark.parametrize(
    ("param", "body", "named"),
    [
        (None, {}, None),
        ("messages", {}, "messages"),
        ("messages[0].content[1]", {}, "messages[0].content[1]"),
        ("tools[0].function.parameters", {}, "tools[0].function.parameters"),
        ("sampling.temperature", {"temperature": 1}, "temperature"),
        ("sampling.max_tokens", {"max_tokens": 10}, "max_tokens"),
        ("sampling.max_tokens", {"max_completion_tokens": 10}, "max_completion_tokens"),
        ("sampling.max_tokens", {"max_tokens": 5, "max_completion_tokens": 10}, "max_completion_tokens"),
        ("sampling.logprobs", {"logprobs": True, "top_logprobs": 3}, "top_logprobs"),
        ("sampling.logprobs", {"logprobs": True}, "logprobs"),
        ("sampling.stop[0]", {"stop": "x"}, "stop"),
        ("sampling.stop[1]", {"stop": ["x", "y"]}, "stop[1]"),
        ("sampling.guided.regex", {"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        ("sampling.guided.regex", {"guided_regex": "a"}, "guided_regex"),
        ("sampling.guided.choice[1]", {"structured_outputs": {"choice": ["a", "b"]}}, "structured_outputs.choice[1]"),
        ("sampling.guided.json_schema", {"guided_json": {"type": "object"}}, "guided_json"),
        ("sampling.guided.json_schema", {"response_format": SCHEMA}, "response_format.json_schema.schema"),
        ("sampling.guided", {"response_format": {"type": "json_object"}}, "response_format"),
        ("resume.token_ids", {}, None),
    ],
)
def test_an_engines_name_is_told_as_the_caller_wrote_it(
    param: str | None, body: dict[str, Any], named: str | None
) -> None:
    assert chat_names(body, DispatchHints()).param(param) == named


@pytest.mark.parametrize(
    ("param", "in_body", "in_header"),
    [
        ("session.id", "session_id", "x-session-id"),
        ("instance", "instance", "x-penstock-instance"),
        ("priority", "priority", "x-penstock-priority"),
    ],
)
def test_what_a_header_said_is_named_as_the_header(param: str, in_body: str, in_header: str) -> None:
    said = {"session_id": "s", "instance": "i", "priority": 1}
    assert chat_names({}, HEADERS).param(param) == in_header
    assert chat_names(said, DispatchHints()).param(param) == in_body
    # The body goes before the header.
    assert chat_names(said, HEADERS).param(param) == in_body


@pytest.mark.parametrize(
    ("prompt", "params", "named"),
    [
        ("a", ["prompt"], ["prompt"]),
        ([1, 2], ["prompt_token_ids[1]"], ["prompt[1]"]),
        (["a", "b"], ["prompt", "prompt"], ["prompt[0]", "prompt[1]"]),
        ([[1], [2]], ["prompt_token_ids", "prompt_token_ids[0]"], ["prompt[0]", "prompt[1][0]"]),
    ],
)
def test_each_prompt_has_its_own_name(prompt: Any, params: list[str], named: list[str]) -> None:
    _, askings = parse_completion({"model": "demo", "prompt": prompt}, DispatchHints())
    assert [asking.names.param(param) for asking, param in zip(askings, params, strict=True)] == named


def test_messages_speak_of_the_callers_fields_too() -> None:
    names = chat_names({"max_completion_tokens": 5}, DispatchHints())
    with pytest.raises(InvalidRequest) as caught, names.spoken():
        raise InvalidRequest("max_tokens is over min_tokens, and max_tokens_per_s is not.", param="sampling.max_tokens")
    assert str(caught.value) == "max_completion_tokens is over min_tokens, and max_tokens_per_s is not."
    assert caught.value.param == "max_completion_tokens"


async def answered(serving: Serving, path: str, body: dict[str, Any], error: Any, **kwargs: Any) -> Any:
    async with serving(engines=[Refuses("demo-0", script=[error], error=error)]) as served:
        answer = await served.post(path, {"model": "demo", **body}, **kwargs)
    return answer.status, answer.json["error"]["param"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_error_comes_back_in_the_callers_words(serving: Serving, stream: bool) -> None:
    def refusal() -> Unsupported:
        return Unsupported("No.", param="sampling.guided.regex")

    for body in ({"structured_outputs": {"regex": "a"}}, {"guided_regex": "a"}):
        name = "guided_regex" if "guided_regex" in body else "structured_outputs.regex"
        chat = {"messages": HELLO, "stream": stream, **body}
        assert await answered(serving, "/v1/chat/completions", chat, refusal()) == (400, name)
        completion = {"prompt": ["a", "b"], "stream": stream, **body}
        assert await answered(serving, "/v1/completions", completion, refusal()) == (400, name)


async def test_every_api_has_its_own_names(serving: Serving) -> None:
    for path, body, wrong, named in (
        ("/v1/embeddings", {"input": "a"}, "inputs[0]", "input"),
        ("/v1/embeddings", {"input": [1, 2]}, "inputs[0]", "input"),
        ("/v1/embeddings", {"input": ["a", "b"]}, "inputs[1]", "input[1]"),
        ("/v1/embeddings", {"input": ["a", "b"]}, "inputs", "input"),
        ("/detokenize", {"tokens": [1]}, "token_ids[0]", "tokens[0]"),
        ("/v1/completions", {"prompt": [[1], [2]], "echo": True}, "token_ids", "prompt[0]"),
    ):
        assert await answered(serving, path, body, InvalidRequest("No.", param=wrong)) == (400, named)


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"x-penstock-priority": "101"}, "x-penstock-priority"),
        ({"x-penstock-priority": "-101"}, "x-penstock-priority"),
    ],
)
async def test_a_header_out_of_bounds_is_named(serving: Serving, headers: dict[str, str], param: str) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/embeddings", {"input": "a"}),
    ):
        assert await answered(serving, path, body, "Hi", headers=headers) == (400, param)


async def test_a_token_of_a_single_input_is_named(serving: Serving) -> None:
    assert await answered(serving, "/v1/embeddings", {"input": [1, 2, -3]}, "Hi") == (400, "input[2]")
    assert await answered(serving, "/v1/embeddings", {"input": [[1], [2, -3]]}, "Hi") == (400, "input[1][1]")


async def test_bounds_that_contradict_each_other_are_told_in_the_callers_words(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.chat(min_tokens=9, max_completion_tokens=3)
    assert answer.json["error"]["message"] == ("min_tokens: min_tokens (9) is greater than max_completion_tokens (3)")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex"),
        ({"guided_grammar": "root ::= 'a'"}, "guided_grammar"),
        ({"guided_json": {"type": "object", "patternProperties": {}}}, "guided_json"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "what"}}}},
            "response_format.json_schema.schema",
        ),
        ({"bad_words": ["x"]}, "bad_words"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"max_completion_tokens": 10_000_000}, "max_completion_tokens"),
        ({"max_tokens": 10_000_000}, "max_tokens"),
    ],
)
async def test_the_simulated_engine_names_what_the_caller_wrote(
    serving: Serving, fields: dict[str, Any], param: str
) -> None:
    engine = make_engine("sim-0", EngineSpec(kind="simulated", model="demo"))
    async with serving(engines=[engine]) as served:
        answer = await served.chat(**fields)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
