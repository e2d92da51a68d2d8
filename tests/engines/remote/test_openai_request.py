"""Bodies: everything that a request asks for is in them, or is refused by our name of it."""

from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as CompletionParams
from pydantic import ConfigDict, TypeAdapter, with_config

from engines.contract import Capabilities
from engines.errors import Unsupported
from engines.remote.openai_engine import DEFAULTS
from engines.remote.openai_request import OpenAIRequests, our_param
from engines.requests import GenerateRequest, Sampling
from tests.contract.asking import WEATHER
from tests.engines.remote.wire import request

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
CALL = {"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
CONVERSATION: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "name": "ada", "content": [{"type": "text", "text": "Look"}, IMAGE]},
    {
        "role": "user",
        "content": [
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
        ],
    },
    {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "call_b"}]},
    {"role": "tool", "tool_call_id": "call_a", "content": "sunny"},
    {"role": "tool", "tool_call_id": "call_b", "content": "dry"},
]


def requests(dialect: Any = "openai", capabilities: Capabilities = DEFAULTS) -> OpenAIRequests:
    field = "max_completion_tokens" if dialect == "openai" else "max_tokens"
    return OpenAIRequests(dialect, capabilities, "model", field)


def chat(dialect: str = "openai", **fields: Any) -> dict[str, Any]:
    return requests(dialect).chat(request(**fields))


CHATS: dict[str, dict[str, Any]] = {
    "a greeting": {},
    "a conversation": {"messages": CONVERSATION, "tools": [WEATHER], "parallel_tool_calls": False},
    "a required tool": {"tools": [WEATHER], "tool_choice": "required"},
    "a named tool": {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    "sampling": {
        "sampling": {
            "temperature": 0.5,
            "top_p": 0.9,
            "presence_penalty": 1,
            "frequency_penalty": -1,
            "seed": 7,
            "stop": ["a", "b"],
            "n": 2,
            "max_tokens": 9,
            "logprobs": 3,
            "logit_bias": {5: -100},
        }
    },
    "a schema": {"sampling": {"guided": {"json_schema": SCHEMA}}},
    "any object": {"sampling": {"guided": {"json_object": True}}},
    "effort": {"reasoning_effort": "low"},
}


@pytest.mark.parametrize("what", CHATS)
def test_a_chat_body_is_one_of_openais(what: str) -> None:
    body = chat(**CHATS[what])
    adapter = TypeAdapter(with_config(ConfigDict(extra="forbid"))(ChatParams))
    adapter.validate_python(body)
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}


def test_everything_of_a_chat_is_in_its_body() -> None:
    body = chat(**CHATS["a conversation"])
    assert body["messages"] == [
        {key: value for key, value in message.items() if value is not None} for message in CONVERSATION
    ]
    assert body["tools"] == [WEATHER] and body["parallel_tool_calls"] is False
    body = chat(**CHATS["sampling"])
    assert {name: value for name, value in body.items() if name not in ("messages", "model", "stream_options")} == {
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "seed": 7,
        "stop": ["a", "b"],
        "n": 2,
        "max_completion_tokens": 9,
        "logprobs": True,
        "top_logprobs": 3,
        "logit_bias": {"5": -100},
    }
    assert chat(**CHATS["a required tool"])["tool_choice"] == "required"
    assert chat(**CHATS["a named tool"])["tool_choice"]["function"] == {"name": "get_weather"}
    assert chat(**CHATS["a schema"])["response_format"]["json_schema"]["schema"] == SCHEMA
    assert chat(**CHATS["effort"])["reasoning_effort"] == "low"


@pytest.mark.parametrize("prompt", [{"prompt": "Once"}, {"prompt_token_ids": [1, 2, 3]}], ids=str)
def test_a_prompt_is_a_text_completion(prompt: dict[str, Any]) -> None:
    asked = GenerateRequest(model="model", sampling=Sampling(max_tokens=5, logprobs=2, stop=["x"]), **prompt)
    body = requests().completion(asked)
    TypeAdapter(with_config(ConfigDict(extra="forbid"))(CompletionParams)).validate_python(body)
    assert body["prompt"] == next(iter(prompt.values()))
    assert (body["max_tokens"], body["logprobs"], body["stop"]) == (5, 2, ["x"])


def test_a_text_completion_is_never_cut_short_by_the_servers_default() -> None:
    with pytest.raises(Unsupported) as caught:
        requests().completion(GenerateRequest(model="model", prompt="Once"))
    assert caught.value.param == "sampling.max_tokens"
    known = requests(capabilities=Capabilities(context_length=100))
    assert known.completion(GenerateRequest(model="model", prompt_token_ids=[1] * 30))["max_tokens"] == 70


VLLM_SAMPLING: dict[str, Any] = {
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.5,
    "stop_token_ids": [3],
    "include_stop_str_in_output": True,
    "bad_words": ["x"],
    "allowed_token_ids": [1],
    "min_tokens": 2,
    "ignore_eos": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
}
VLLM_CHAT: dict[str, dict[str, Any]] = {
    "add_generation_prompt": {"add_generation_prompt": False},
    "continue_final_message": {"continue_final_message": True, "add_generation_prompt": False},
    "add_special_tokens": {"add_special_tokens": True},
    "chat_template_kwargs": {"chat_template_kwargs": {"enable_thinking": True}},
}


@pytest.mark.parametrize("name", VLLM_SAMPLING)
def test_sampling_that_only_vllm_knows_is_sent_to_it_and_refused_for_others(name: str) -> None:
    sampling = {name: VLLM_SAMPLING[name]}
    assert chat("vllm", sampling=sampling)[name] == VLLM_SAMPLING[name]
    with pytest.raises(Unsupported) as caught:
        chat(sampling=sampling)
    assert caught.value.param == f"sampling.{name}"


@pytest.mark.parametrize("name", VLLM_CHAT)
def test_fields_that_only_vllm_knows_are_sent_to_it_and_refused_for_others(name: str) -> None:
    assert chat("vllm", **VLLM_CHAT[name])[name] == VLLM_CHAT[name][name]
    with pytest.raises(Unsupported) as caught:
        chat(**VLLM_CHAT[name])
    assert caught.value.param in VLLM_CHAT[name]


def test_thinking_is_a_matter_of_the_template_or_of_the_effort() -> None:
    on, off = {"enabled": True}, {"enabled": False}
    made = chat("vllm", thinking=on, chat_template_kwargs={"thinking": False, "style": "short"})
    assert made["chat_template_kwargs"] == {"enable_thinking": True, "thinking": False, "style": "short"}
    assert chat("vllm", thinking=off)["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert "reasoning_effort" not in chat(thinking=on)
    assert chat(thinking=off, reasoning_effort="high")["reasoning_effort"] == "none"
    for dialect in ("vllm", "openai"):
        with pytest.raises(Unsupported) as caught:
            chat(dialect, thinking=on | {"budget_tokens": 2000})
        assert caught.value.param == "thinking.budget_tokens"


def test_a_call_that_failed_is_told_where_there_is_a_word_for_it() -> None:
    answer = {"role": "tool", "tool_call_id": "a", "content": "no", "is_error": True}
    assert chat("vllm", messages=[answer])["messages"][0]["is_error"] is True
    assert "is_error" not in chat(messages=[answer])["messages"][0]


def test_every_field_of_sampling_is_sent_or_refused() -> None:
    """A field that is added to Sampling must be thought of here."""
    sent = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "n"}
    # Whether a limit fits is the server's to say, clipped or not.
    sent |= {"max_tokens", "clip_max_tokens", "logprobs", "logit_bias", "guided"}
    assert Sampling.model_fields.keys() == sent | VLLM_SAMPLING.keys()
    dispatch = {"session", "instance", "priority", "tenant", "resume", "alone", "adapter"}
    dispatch |= {"prefixes", "prefill_tokens"}
    chat_fields = {"model", "messages", "sampling", "tools", "tool_choice", "parallel_tool_calls"}
    chat_fields |= {"thinking", "reasoning_effort", "include_reasoning", "attachments"}
    assert GenerateRequest.model_fields.keys() == dispatch | chat_fields | VLLM_CHAT.keys() | {
        "prompt",
        "prompt_token_ids",
    }


@pytest.mark.parametrize(
    "guided", [{"regex": "a+"}, {"choice": ["a"]}, {"grammar": "root ::= 'a'"}, {"structural_tag": "{}"}], ids=str
)
def test_constraints_that_only_vllm_knows_are_sent_to_it_and_refused_for_others(guided: dict[str, Any]) -> None:
    assert chat("vllm", sampling={"guided": guided})["structured_outputs"] == guided
    with pytest.raises(Unsupported) as caught:
        chat(sampling={"guided": guided})
    assert caught.value.param == "sampling.guided"


def test_what_the_model_cannot_do_is_refused() -> None:
    unable = requests(capabilities=Capabilities())
    for fields, param in (
        ({"tools": [WEATHER]}, "tools"),
        ({"sampling": {"logprobs": 0}}, "sampling.logprobs"),
        ({"sampling": {"guided": {"json_object": True}}}, "sampling.guided"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]"),
    ):
        with pytest.raises(Unsupported) as caught:
            unable.chat(request(**fields))
        assert caught.value.param == param


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("messages[2].content", "messages[2].content"),
        ("max_completion_tokens", "sampling.max_tokens"),
        ("temperature", "sampling.temperature"),
        ("top_logprobs", "sampling.logprobs"),
        ("response_format.json_schema.schema", "sampling.guided"),
        ("structured_outputs.regex", "sampling.guided"),
        ("input[3]", "inputs[3]"),
        ("tokens", "token_ids"),
        ("", None),
    ],
)
def test_their_names_of_fields_become_ours(theirs: str, ours: str | None) -> None:
    assert our_param(theirs) == ours
