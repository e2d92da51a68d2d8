import asyncio
import json

import openai
import pytest

from engines.errors import ContextOverflow
from engines.events import TextDelta, TokenLogprob
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Fail, Hang, Hold
from tests.deployments.http.conftest import Serving, until
from tests.deployments.http.openai.test_chat import events_of


async def test_a_whole_answer_has_openais_shape(serving: Serving) -> None:
    async with serving([" jumps"]) as served:
        answer = await served.post("/v1/completions", {"model": "demo", "prompt": "The fox"})
        assert served.engine.requests[0].sampling.max_tokens == 16
    assert answer.status == 200
    answer.json.pop("created")
    assert answer.json == {
        "id": f"cmpl-{answer.headers['x-request-id']}",
        "object": "text_completion",
        "model": "demo",
        "choices": [{"index": 0, "text": " jumps", "logprobs": None, "finish_reason": "stop", "stop_reason": None}],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 6,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "system_fingerprint": None,
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([97, 98], ["ab"]),
        ([[97, 98], [99]], ["ab", "c"]),
    ],
)
async def test_every_kind_of_prompt(serving: Serving, prompt: object, texts: list[str], stream: bool) -> None:
    body = {"model": "demo", "prompt": prompt, "echo": True, "stream": stream}
    async with serving() as served:
        answer = await served.post("/v1/completions", body)
    assert answer.status == 200, answer.body
    chunks = events_of(answer.body) if stream else [answer.json]
    found: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    # The engine repeats the prompt, and so does `echo`.
    assert found == {index: text * 2 for index, text in enumerate(texts)}


async def test_usage_is_summed_over_prompts(serving: Serving) -> None:
    body = {"model": "demo", "prompt": ["ab", "c"], "stream": True, "stream_options": {"include_usage": True}}
    async with serving() as served:
        chunks = events_of((await served.post("/v1/completions", body)).body)
        ids = [play.context.id for play in served.engine.plays]
    assert chunks[-1]["usage"]["prompt_tokens"] == 3
    assert len(set(ids)) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_have_the_older_form(serving: Serving, stream: bool) -> None:
    def token(text: str) -> TokenLogprob:
        top = (TokenLogprob("x", 120, -0.25, b"x"),)
        return TokenLogprob(text, 1, -1.0, text.encode(), top)

    script = [TextDelta("ab", 0, (1,), (token("ab"),)), TextDelta("c", 0, (1,), (token("c"),))]
    async with serving(script) as served:
        body = {"model": "demo", "prompt": "q", "logprobs": 1, "stream": stream}
        answer = await served.post("/v1/completions", body)
        assert served.engine.requests[0].sampling.logprobs == 1
    chunks = events_of(answer.body) if stream else [answer.json]
    found: dict[str, list] = {}
    for chunk in chunks:
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            found.setdefault(name, []).extend(values)
    assert found == {
        "text_offset": [0, 2],
        "token_logprobs": [-1.0, -1.0],
        "tokens": ["ab", "c"],
        "top_logprobs": [{"x": -0.25, "ab": -1.0}, {"x": -0.25, "c": -1.0}],
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [[1], [2**40]]}, "prompt[1][0]"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 200}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 2}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"messages": []}, "messages"),
    ],
)
async def test_what_is_wrong_is_named(serving: Serving, fields: dict, param: str) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post("/v1/completions", {"model": "demo", "prompt": "p", **fields})
    assert answer.status == 400
    assert answer.json["error"]["param"] == param, answer.json


FILL_IN = "<PRE>{prompt}<SUF>{suffix}<MID>"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_gap_is_filled_as_the_models_template_says(serving: Serving, stream: bool) -> None:
    async with serving(["Hi"], fill_in_the_middle=FILL_IN) as served:
        for prompt, filled in (("a{suffix}", "<PRE>a{suffix}<SUF>b<MID>"), ([""], "<PRE><SUF>b<MID>")):
            body = {"model": "demo", "prompt": prompt, "suffix": "b", "stream": stream}
            answer = await served.post("/v1/completions", body)
            assert answer.status == 200
            assert served.engine.requests[-1].prompt == filled
            texts = [chunk["choices"][0]["text"] for chunk in events_of(answer.body)] if stream else []
            texts = texts or [choice["text"] for choice in answer.json["choices"]]
            assert "".join(texts) == "Hi"
        await served.post("/v1/completions", {"model": "demo", "prompt": "p", "suffix": ""})
        assert served.engine.requests[-1].prompt == "p"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True}, "echo"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1]]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"suffix": 1}, "suffix"),
        ({"model": "other"}, None),
    ],
)
async def test_what_is_wrong_of_a_gap_is_named(serving: Serving, fields: dict, param: str | None) -> None:
    async with serving(["Hi"], fill_in_the_middle=FILL_IN) as served:
        answer = await served.post("/v1/completions", {"model": "demo", "prompt": "p", "suffix": "s", **fields})
        assert answer.status == (404 if "model" in fields else 400)
        assert param is None or answer.json["error"]["param"] == param
        assert not served.engine.requests


async def test_best_of_that_says_nothing_new_is_fine(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post("/v1/completions", {"model": "demo", "prompt": "p", "best_of": 1, "suffix": None})
    assert answer.status == 200


async def test_openais_client_reads_it(serving: Serving) -> None:
    async with serving(["Hi", " you"]) as served:
        client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
        whole = await client.completions.create(model="demo", prompt="p")
        assert whole.choices[0].text == "Hi you"
        stream = await client.completions.create(model="demo", prompt="p", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hi you"


async def test_one_prompt_that_fails_ends_them_all(serving: Serving) -> None:
    def handler(request):
        return ["Hi", Hang()] if request.prompt == "a" else ["x", 0.05, Fail(error="EngineFailed", message="No.")]

    async with serving(handler) as served:
        answer = await served.post("/v1/completions", {"model": "demo", "prompt": ["a", "b"], "stream": True})
        whole = await served.post("/v1/completions", {"model": "demo", "prompt": ["a", "b"]})
        assert served.engine.active == []
    assert json.loads(answer.body.decode().split("data: ")[-2])["error"]["code"] == "engine_failed"
    assert (whole.status, whole.json["error"]["code"]) == (500, "engine_failed")


async def test_a_stream_begins_with_the_first_prompt_that_does(serving: Serving) -> None:
    def handler(request):
        return ["Hi", Hang()] if request.prompt == "a" else [Hold(hold_s=60), "x"]

    async with serving(handler) as served:
        body = {"model": "demo", "prompt": ["b", "a"], "stream": True}
        async with served.client.post(f"{served.url}/v1/completions", json=body) as answer:
            assert answer.headers["x-penstock-instance"] == "demo-0"
            first = await asyncio.wait_for(answer.content.readuntil(b"\n\n"), 60)
        assert json.loads(first[6:])["choices"][0]["text"] == "Hi"
        assert json.loads(first[6:])["choices"][0]["index"] == 1
        await until(lambda: not served.engine.active and served.ingress.in_flight == 0)


@pytest.mark.parametrize("hold_s", [0.0, 0.2])
async def test_a_prompt_that_is_refused_is_named_before_and_after_the_stream_began(
    serving: Serving, hold_s: float
) -> None:
    def handler(request):
        if request.prompt == "a":
            return [Hold(hold_s=60)] if hold_s == 0 else ["Hi", Hang()]
        return [Hold(hold_s=hold_s), ContextOverflow("Too long.", context_length=8, param="prompt")]

    async with serving(handler) as served:
        answer = await served.post("/v1/completions", {"model": "demo", "prompt": ["a", "b"], "stream": True})
        await until(lambda: not served.engine.active)
    if hold_s == 0:
        assert (answer.status, answer.json["error"]["param"]) == (400, "prompt[1]")
    else:
        assert answer.status == 200
        error = json.loads(answer.body.decode().split("data: ")[-2])["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt[1]")


async def test_a_bug_in_the_middle_of_a_stream_says_nothing_of_the_inside(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ScriptedEngine):
        async def submit(self, request, context, sink):
            if request.prompt == "b":
                await asyncio.sleep(0.2)
                raise RuntimeError("secret")
            await super().submit(request, context, sink)

    async with serving(engines=[Broken("demo-0", script=["Hi", Hang()])]) as served:
        answer = await served.post("/v1/completions", {"model": "demo", "prompt": ["a", "b"], "stream": True})
    assert (answer.status, b"internal_error" in answer.body, b"secret" in answer.body) == (200, True, False)
    assert answer.headers["x-request-id"] in caplog.text and "secret" in caplog.text
