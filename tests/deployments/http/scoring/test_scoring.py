"""Rerank and score over HTTP."""

from typing import Any

import pytest

from engines.errors import ContextOverflow
from tests.deployments.http.conftest import Serving

DOCUMENTS = ["mountain", "a river", {"text": "a rivulet"}]
RERANK: dict[str, Any] = {"model": "demo", "query": "a river", "documents": DOCUMENTS}
SCORE: dict[str, Any] = {"model": "demo", "text_1": "a river", "text_2": ["a river", "mountain"]}


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_documents_come_in_their_order(serving: Serving, path: str) -> None:
    async with serving() as served:
        answer = await served.post(path, RERANK)
        few = await served.post(path, {**RERANK, "top_n": 1, "return_documents": False})
    assert answer.status == 200, answer.body
    assert answer.headers["x-penstock-instance"] == "demo-0"
    results = answer.json["results"]
    assert [result["index"] for result in results] == [1, 2, 0]
    assert [result["document"] for result in results] == [{"text": t} for t in ("a river", "a rivulet", "mountain")]
    values = [result["relevance_score"] for result in results]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]
    assert answer.json["usage"]["total_tokens"] == answer.json["usage"]["prompt_tokens"] > 0
    assert answer.json["model"] == "demo" and answer.json["id"].startswith("rerank-")
    assert few.json["results"] == [{"index": 1, "relevance_score": values[0]}]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", ["text_1 text_2", "queries documents", "queries items", "data_1 data_2"])
async def test_scores_by_every_name(serving: Serving, path: str, names: str) -> None:
    first, second = names.split()
    async with serving() as served:
        one = await served.post(path, {"model": "demo", first: "a river", second: ["a river", "mountain"]})
        each = await served.post(path, {"model": "demo", first: ["a river", "x"], second: ["mountain", "x"]})
    assert one.status == 200, one.body
    assert [(item["index"], item["object"]) for item in one.json["data"]] == [(0, "score"), (1, "score")]
    assert one.json["data"][0]["score"] == each.json["data"][1]["score"] > one.json["data"][1]["score"]
    assert one.json["data"][1]["score"] == each.json["data"][0]["score"]


async def test_a_long_answer_comes_whole(serving: Serving) -> None:
    texts = ['\u2603"\\' * 100_000, "x" * 300_000, ""]
    async with serving() as served:
        answer = await served.post("/rerank", {**RERANK, "documents": texts})
    assert sorted(result["document"]["text"] for result in answer.json["results"]) == sorted(texts)


async def test_without_a_model_the_first_that_scores_is_asked(serving: Serving) -> None:
    async with serving() as served:
        answer = await served.post("/rerank", {"query": "a", "documents": ["b"]})
    assert (answer.status, answer.json["model"]) == (200, "demo")


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/rerank", {"query": None}, "query"),
    ("/rerank", {"query": ["a"]}, "query"),
    ("/rerank", {"query": 5}, "query"),
    ("/rerank", {"query": {"text": 5}}, "query.text"),
    ("/rerank", {"query": {"content": []}}, "query.content"),
    ("/rerank", {"documents": None}, "documents"),
    ("/rerank", {"documents": []}, "documents"),
    ("/rerank", {"documents": ["a", 5]}, "documents[1]"),
    ("/rerank", {"documents": ["a", {}]}, "documents[1].text"),
    ("/rerank", {"documents": ["a", {"text": "b", "title": "c"}]}, "documents[1].title"),
    ("/rerank", {"documents": ["a", {"content": [{"type": "image_url"}]}]}, "documents[1].content"),
    ("/rerank", {"documents": ["a"] * 2049}, "documents"),
    ("/rerank", {"documents": [5] * 140_000}, "documents"),
    ("/rerank", {"query": "q" * 100_000, "documents": ["a"] * 2048}, "documents"),
    ("/rerank", {"top_n": -1}, "top_n"),
    ("/rerank", {"top_n": "1"}, "top_n"),
    ("/rerank", {"top_n": True}, "top_n"),
    ("/rerank", {"return_documents": 1}, "return_documents"),
    ("/rerank", {"model": ""}, "model"),
    ("/rerank", {"model": 5}, "model"),
    ("/rerank", {"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ("/rerank", {"truncate_prompt_tokens": 1.5}, "truncate_prompt_tokens"),
    ("/rerank", {"truncation_side": "middle"}, "truncation_side"),
    ("/rerank", {"max_tokens_per_query": -1}, "max_tokens_per_query"),
    ("/rerank", {"max_tokens_per_doc": "many"}, "max_tokens_per_doc"),
    ("/rerank", {"use_activation": "yes"}, "use_activation"),
    ("/rerank", {"instruction": "i" * 20_000}, "instruction"),
    ("/rerank", {"chat_template_kwargs": {"instruction": "i" * 20_000}}, "chat_template_kwargs.instruction"),
    ("/rerank", {"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
    ("/rerank", {"padding": "max_length"}, "padding"),
    ("/rerank", {"request_id": "mine"}, "request_id"),
    ("/rerank", {"cache_salt": "salt"}, "cache_salt"),
    ("/rerank", {"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"),
    ("/rerank", {"priority": 101}, "priority"),
    ("/rerank", {"session_id": ""}, "session_id"),
    ("/rerank", {"topn": 1}, "topn"),
    ("/score", {"text_1": None}, "text_1"),
    ("/score", {"text_1": []}, "text_1"),
    ("/score", {"text_2": [{}]}, "text_2[0].text"),
    ("/score", {"text_1": ["a", "b", "c"]}, "text_2"),
    ("/score", {"queries": "a"}, "queries"),
    ("/score", {"top_n": 1}, "top_n"),
]


@pytest.mark.parametrize(("path", "fields", "param"), WRONG, ids=lambda value: str(value)[:40])
async def test_what_is_wrong_is_named(serving: Serving, path: str, fields: dict[str, Any], param: str) -> None:
    async with serving() as served:
        answer = await served.post(path, {**(RERANK if path == "/rerank" else SCORE), **fields})
        assert (answer.status, answer.json["error"]["param"]) == (400, param), answer.body[:500]
        assert len(answer.body) < 1500
        await served.still_serves()


async def test_no_texts_and_half_of_them(serving: Serving) -> None:
    async with serving() as served:
        none = await served.post("/score", {"model": "demo"})
        assert (none.status, none.json["error"]["param"]) == (400, None)
        half = await served.post("/score", {"model": "demo", "text_1": "a"})
        assert (half.status, half.json["error"]["param"]) == (400, "text_2")
        assert (await served.post("/rerank", {**RERANK, "model": "nope"})).status == 404


@pytest.mark.parametrize(
    ("path", "body", "wrong", "named"),
    [
        ("/rerank", {"query": "q", "documents": ["a", "b"]}, "documents[1]", "documents[1]"),
        ("/rerank", {"query": "q", "documents": "a"}, "documents[0]", "documents"),
        ("/rerank", {"query": "q", "documents": "a"}, "queries[0]", "query"),
        ("/score", {"text_1": ["q", "r"], "text_2": ["a", "b"]}, "documents[1]", "text_2[1]"),
        ("/score", {"data_1": ["q", "r"], "data_2": ["a", "b"]}, "queries[1]", "data_1[1]"),
    ],
)
async def test_engines_errors_are_in_the_callers_words(
    serving: Serving, path: str, body: dict[str, Any], wrong: str, named: str
) -> None:
    async with serving() as served:

        async def refuse(*_: object) -> None:
            raise ContextOverflow("Too long.", context_length=8, prompt_tokens=9, param=wrong)

        served.engine.call = refuse
        answer = await served.post(path, {"model": "demo", **body})
    assert (answer.status, answer.json["error"]["param"]) == (400, named)
