import base64
import struct
from dataclasses import asdict
from typing import Any

import openai
import pytest

from engines.scripted.engine import ScriptedEngine
from tests.deployments.http.conftest import HELLO, Serving


@pytest.mark.parametrize(("given", "count"), [("abc", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2], [3]], 3)])
async def test_embeddings_of_every_kind_of_input(serving: Serving, given: object, count: int) -> None:
    async with serving() as served:
        answer = await served.post("/v1/embeddings", {"model": "demo", "input": given, "dimensions": 3})
    assert answer.status == 200, answer.body
    assert answer.headers["x-penstock-instance"] == "demo-0"
    assert answer.json["object"] == "list"
    assert [item["index"] for item in answer.json["data"]] == list(range(count))
    assert all(len(item["embedding"]) == 3 and item["object"] == "embedding" for item in answer.json["data"])
    assert answer.json["usage"]["total_tokens"] == answer.json["usage"]["prompt_tokens"]


async def test_base64_holds_the_same_floats(serving: Serving) -> None:
    async with serving() as served:
        floats = (await served.post("/v1/embeddings", {"model": "demo", "input": "a"})).json["data"][0]["embedding"]
        body = {"model": "demo", "input": "a", "encoding_format": "base64"}
        packed = base64.b64decode((await served.post("/v1/embeddings", body)).json["data"][0]["embedding"])
        # The openai package asks for base64 by itself.
        client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
        read = (await client.embeddings.create(model="demo", input="a")).data[0].embedding
    assert struct.unpack(f"<{len(floats)}f", packed) == pytest.approx(floats, rel=1e-6)
    assert read == pytest.approx(floats, rel=1e-6)


ENCODINGS: list[Any] = [openai.omit, "float", "base64"]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=["default", "float", "base64"])
@pytest.mark.parametrize("raw", [False, True])
async def test_openai_reads_every_encoding(serving: Serving, encoding: Any, raw: bool) -> None:
    async with serving() as served:
        body = {"model": "demo", "input": ["a", "b"], "encoding_format": "float", "dimensions": 5}
        floats = [item["embedding"] for item in (await served.post("/v1/embeddings", body)).json["data"]]
        client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
        asked: dict[str, Any] = {"model": "demo", "input": ["a", "b"], "dimensions": 5, "encoding_format": encoding}
        if raw:
            made = (await client.embeddings.with_raw_response.create(**asked)).parse()
        else:
            made = await client.embeddings.create(**asked)
        # A client that holds answers to its own types before it decodes them, as OpenAI's tests do, takes floats only:
        # in its types there is no base64, which is what it asks for by itself.
        strict = openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="any", _strict_response_validation=True)
        assert (await strict.embeddings.create(**{**asked, "encoding_format": "float"})).data[0].embedding == floats[0]
    read = [
        struct.unpack("<5f", base64.b64decode(item.embedding)) if encoding == "base64" else item.embedding  # type: ignore[arg-type]
        for item in made.data
    ]
    assert [list(vector) for vector in read] == [pytest.approx(vector, rel=1e-6) for vector in floats]


async def test_a_long_answer_comes_whole(serving: Serving) -> None:
    async with serving() as served:
        body = {"model": "demo", "input": [f"text {number}" for number in range(300)], "dimensions": 500}
        floats = await served.post("/v1/embeddings", body)
        packed = await served.post("/v1/embeddings", {**body, "encoding_format": "base64"})
        assert len(floats.body) > 1_000_000
        vectors = [struct.unpack("<500f", base64.b64decode(item["embedding"])) for item in packed.json["data"]]
        assert [tuple(item["embedding"]) for item in floats.json["data"]] == vectors
        text = "x" * 200_000
        tokens = (await served.post("/tokenize", {"model": "demo", "prompt": text, "return_token_strs": True})).json
        assert (tokens["count"], tokens["tokens"], tokens["token_strs"]) == (200_000, [120] * 200_000, list(text))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": ["a"] * 3000}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimension": 3}, "dimension"),
    ],
)
async def test_what_is_wrong_with_an_embedding_request_is_named(serving: Serving, fields: dict, param: str) -> None:
    async with serving() as served:
        answer = await served.post("/v1/embeddings", {"model": "demo", "input": "a", **fields})
    assert answer.status == 400
    assert answer.json["error"]["param"] == param, answer.json


async def test_tokenize_and_back(serving: Serving) -> None:
    async with serving() as served:
        body = {"model": "demo", "prompt": "abc", "return_token_strs": True}
        answer = await served.post("/tokenize", body)
        assert answer.json == {
            "count": 3,
            "max_model_len": 2**20,
            "tokens": [97, 98, 99],
            "token_strs": ["a", "b", "c"],
        }
        chat = await served.post("/tokenize", {"model": "demo", "messages": HELLO})
        assert chat.json["count"] == len("hello there")
        assert chat.json["token_strs"] is None
        # Like vLLM: without a model, the first one.
        back = await served.post("/detokenize", {"tokens": [97, 98]})
        assert back.json == {"prompt": "ab"}
        assert (await served.post("/detokenize", {"tokens": [-1]})).json["error"]["param"] == "tokens[0]"
        assert (await served.post("/tokenize", {"model": "demo"})).json["error"]["param"] is None
        assert (await served.post("/tokenize", {"model": "nope", "prompt": "a"})).status == 404


async def test_models(serving: Serving) -> None:
    async with serving(aliases={"org/demo/v1": "demo"}) as served:
        listed = (await served.get("/v1/models")).json
        assert listed["object"] == "list"
        assert [(model["id"], model["root"], model["max_model_len"]) for model in listed["data"]] == [
            ("demo", "demo", 2**20),
            ("org/demo/v1", "demo", 2**20),
        ]
        capabilities = asdict(served.engine.capabilities)
        assert listed["data"][0]["capabilities"] == {**capabilities, "fill_in_the_middle": False}
        assert (await served.get("/v1/models/org/demo/v1")).json == listed["data"][1]
        assert (await served.get("/v1/models/org%2Fdemo%2Fv1")).json["id"] == "org/demo/v1"
        async with openai.AsyncOpenAI(
            base_url=f"{served.url}/v1", api_key="any", _strict_response_validation=True
        ) as api:
            assert [model.id async for model in await api.models.list()] == ["demo", "org/demo/v1"]
            read = await api.models.retrieve("org/demo/v1")
            assert read.to_dict() == listed["data"][1]
        missing = await served.get("/v1/models/nope")
        assert missing.status == 404
        assert missing.json["error"]["code"] == "model_not_found"
        answer = await served.chat(model="org/demo/v1")
        assert answer.json["model"] == "org/demo/v1"
        assert served.engine.requests[-1].model == "demo"


async def test_an_unready_model_is_503_with_retry_after(serving: Serving) -> None:
    cold = ScriptedEngine("cold")
    async with serving(engines=[cold]) as served:
        await cold.stop()
        answer = await served.chat()
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json["error"]["code"] == "no_instance"


async def test_a_request_goes_to_the_instance_that_it_names(serving: Serving) -> None:
    engines = [ScriptedEngine(f"demo-{index}") for index in range(3)]
    async with serving(engines=engines) as served:
        for _ in range(3):
            assert (await served.chat(instance="demo-2")).headers["x-penstock-instance"] == "demo-2"
        assert (await served.chat(instance="gone")).status == 404
