"""What is wrong, or not offered, is refused by the name that its caller gave it, with what to do."""

from typing import Any

import openai
import pytest

from tests.deployments.http.conftest import Serving
from tests.deployments.http.responses.talking import ADD, ASKED, PATH, SHELL, ask, client

CALL = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}
ALLOWED = {"type": "allowed_tools", "mode": "auto"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "1"}


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"input": ""}, "input", "give a text"),
    ({"input": []}, "input", "give a text"),
    ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role", "'user', 'assistant'"),
    ({"input": [{"type": "hello"}]}, "input[0]", "an item is of one of the types message"),
    ({"input": user({"type": "input_text"})}, "input[0].content[0].text", "required"),
    ({"input": user({"type": "input_image", "file_id": "f"})}, "input[0].content[0].file_id", "no uploaded files"),
    ({"input": user({"type": "input_file", "file_url": "u"})}, "input[0].content[0].file_url", "not fetched"),
    ({"input": user({"type": "input_audio"})}, "input[0].content[0]", "of one of the types input_text"),
    ({"input": user({"type": "output_text", "text": "a"})}, "input[0].content[0]", "is the assistant's"),
    (
        {"input": [{"role": "assistant", "content": [{"type": "input_image", "image_url": "data:,"}]}]},
        "input[0].content[0]",
        "not the assistant's",
    ),
    ({"input": [OUTPUT]}, "input[0].call_id", "no call before this"),
    ({"input": [CALL, OUTPUT, OUTPUT]}, "input[2].call_id", "no call before this"),
    ({"input": [CALL]}, "input[0]", "has no output"),
    ({"input": [CALL, CALL]}, "input[1].call_id", "another call"),
    ({"input": [{**CALL, "namespace": "n"}, OUTPUT]}, "input[0].namespace", "no namespaces"),
    ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type", "web_search_call: it is of a tool"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search: it runs on OpenAI's servers alone"),
    ({"tools": [ADD, {"type": "mcp", "server_label": "s"}]}, "tools[1].type", "mcp: it runs"),
    ({"tools": [{"type": "fnction"}]}, "tools[0]", "a tool is of one of the types function, custom"),
    ({"tools": [{**ADD, "name": "a b"}]}, "tools[0].name", "pattern"),
    ({"tools": [ADD, ADD]}, "tools[1].name", "another tool"),
    ({"tools": [{**ADD, "parameters": {"a": [1]}, "defer_loading": True}]}, "tools[0].defer_loading", "at once"),
    ({"tools": [{**SHELL, "format": {"type": "grammar"}}]}, "tools[0].format", "a custom tool takes any text"),
    ({"tools": [ADD], "tool_choice": {"type": "function", "name": "sub"}}, "tool_choice", "no function tool 'sub'"),
    ({"tools": [ADD], "tool_choice": {"type": "custom", "name": "add"}}, "tool_choice", "no custom tool 'add'"),
    ({"tools": [ADD], "tool_choice": {"type": "web_search"}}, "tool_choice", "OpenAI's servers"),
    ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
    (
        {
            "tools": [ADD],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]},
        },
        "tool_choice.tools[0]",
        "no function tool 'x'",
    ),
    ({"temperature": 101}, "temperature", "less than or equal to 100"),
    ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
    ({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format", "a schema belongs"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "'text', 'json_object'"),
    ({"reasoning": {"effort": "lots"}}, "reasoning.effort", "'none', 'minimal'"),
    ({"reasoning": {"mode": "pro"}}, "reasoning.mode", "one mode"),
    ({"include": ["everything"]}, "include[0]", "'code_interpreter_call.outputs'"),
    ({"metadata": {"a": "b" * 513}}, "metadata.a", "at most 512"),
    ({"metadata": {str(index): "" for index in range(17)}}, "metadata", "at most 16"),
    ({"truncation": "auto"}, "truncation", "nothing is left out"),
    ({"service_tier": "flex"}, "service_tier", "one tier"),
    ({"prompt": {"id": "p"}}, "prompt", "no templates"),
    ({"background": True}, "background", "this server stores no responses"),
    ({"conversation": "conv_1"}, "conversation", "stores no conversations"),
    ({"store": True}, "store", "stores no responses"),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "stores no responses"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]", "stores no responses"),
    ({"temprature": 1}, "temprature", "temperature"),
]


@pytest.mark.parametrize(("fields", "param", "said"), REFUSED, ids=[f"{param} {said}" for _, param, said in REFUSED])
async def test_it_is_named_as_it_was_written(serving: Serving, fields: dict[str, Any], param: str, said: str) -> None:
    async with serving(["Hi"]) as served:
        for stream in (False, True):
            answer = await ask(served, **fields, stream=stream)
            error = answer.json["error"]
            assert (answer.status, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
            assert said in error["message"], error
        assert not served.engine.requests


async def test_reasoning_comes_back_as_it_went_or_not_at_all(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        for sealed in ("", "x", "gAAAA" * 40, "\u2603", "x" * (4 * 2**20 + 1)):
            item = {"type": "reasoning", "summary": [], "encrypted_content": sealed}
            answer = await ask(served, input=[item, {"role": "user", "content": "hello"}])
            assert (answer.status, answer.json["error"]["param"]) == (400, "input[0].encrypted_content")
        assert not served.engine.requests


async def test_errors_are_the_clients_own(serving: Serving) -> None:
    async with serving(["Hi"]) as served, client(served) as api:
        with pytest.raises(openai.NotFoundError) as caught:
            await api.responses.create(model="other", input="hello")
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as refused:
            await api.responses.create(**ASKED, tools=[{"type": "web_search"}])
        assert (refused.value.param, refused.value.code) == ("tools[0].type", "unsupported")
        assert (await served.get(PATH)).status == 405
