"""Pooling over HTTP."""

import base64
import struct
from typing import Any

import pytest

from tests.deployments.http.conftest import Serving


@pytest.mark.parametrize(("given", "count"), [("abc", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2], [3]], 3)])
async def test_every_kind_of_input(serving: Serving, given: object, count: int) -> None:
    async with serving() as served:
        answer = await served.post("/pooling", {"model": "demo", "input": given})
    assert answer.status == 200, answer.body
    assert [(item["index"], item["object"]) for item in answer.json["data"]] == [(n, "pooling") for n in range(count)]
    assert all(len(item["data"]) == 8 for item in answer.json["data"])
    assert answer.json["usage"]["prompt_tokens"] == answer.json["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("task", "shape"), [("embed", 8), ("classify", 3), ("token_embed", (3, 8)), ("token_classify", (3, 3))]
)
async def test_every_task_in_both_encodings(serving: Serving, task: str, shape: Any) -> None:
    body = {"model": "demo", "input": ["abc"], "task": task}
    async with serving() as served:
        data = (await served.post("/pooling", body)).json["data"][0]["data"]
        packed = (await served.post("/pooling", {**body, "encoding_format": "base64"})).json["data"][0]["data"]
    rows = data if task.startswith("token_") else [data]
    assert [len(row) for row in rows] == ([shape] if isinstance(shape, int) else [shape[1]] * shape[0])
    values = [value for row in rows for value in row]
    assert struct.unpack(f"<{len(values)}f", base64.b64decode(packed)) == tuple(values)


async def test_a_long_answer_comes_whole(serving: Serving) -> None:
    body = {"model": "demo", "input": ["x" * 20_000, "y" * 10], "task": "token_embed"}
    async with serving() as served:
        floats = (await served.post("/pooling", body)).json["data"]
        packed = (await served.post("/pooling", {**body, "encoding_format": "base64"})).json["data"]
    assert [len(item["data"]) for item in floats] == [20_000, 10]
    read = [base64.b64decode(item["data"]) for item in packed]
    assert [list(map(list, struct.iter_unpack("<8f", data))) for data in read] == [item["data"] for item in floats]


WRONG: list[tuple[dict[str, Any], str | None]] = [
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": None}, "input"),
    ({"input": ["a", ""]}, "input[1]"),
    ({"input": ["a", 1]}, "input[1]"),
    ({"input": [1, -1]}, "input[1]"),
    ({"input": ["a"] * 3000}, "input"),
    # The answer would be 300 MB.
    ({"input": ["x" * 2_500_000] * 4, "task": "token_embed"}, "input"),
    ({"task": "plugin"}, "task"),
    ({"task": "score"}, "task"),
    ({"encoding_format": "bytes"}, "encoding_format"),
    ({"embed_dtype": "float16"}, "embed_dtype"),
    ({"endianness": "big"}, "endianness"),
    ({"dimensions": 3}, "dimensions"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"truncation_side": "up"}, "truncation_side"),
    ({"add_special_tokens": 1}, "add_special_tokens"),
    ({"use_activation": "no"}, "use_activation"),
    ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    ({"add_generation_prompt": True}, "add_generation_prompt"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"media_io_kwargs": {"a": {}}}, "media_io_kwargs"),
    ({"data": {}}, "data"),
    ({"normalize": True}, "normalize"),
    ({"padding": "max_length"}, "padding"),
    ({"cache_salt": "a"}, "cache_salt"),
    ({"taks": "embed"}, "taks"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=lambda value: str(value)[:40])
async def test_what_is_wrong_is_named(serving: Serving, fields: dict[str, Any], param: str | None) -> None:
    async with serving() as served:
        answer = await served.post("/pooling", {"model": "demo", "input": "a", **fields})
        assert (answer.status, answer.json["error"]["param"]) == (400, param), answer.body[:500]
        assert len(answer.body) < 1500
        await served.still_serves()


async def test_fields_that_ask_for_nothing_are_taken(serving: Serving) -> None:
    nothing = {"padding": "do_not_pad", "embed_dtype": "float32", "endianness": "native", "dimensions": None, "user": 5}
    async with serving() as served:
        assert (await served.post("/pooling", {"input": "a", "add_generation_prompt": False, **nothing})).status == 200
