"""What the simulated model says."""

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest

from engines.call_requests import EmbedRequest, TokenizeRequest
from engines.context import Context
from engines.errors import ContextOverflow, InvalidRequest, PenstockError, Unsupported
from engines.events import ReasoningDelta, TextDelta, ToolCallArgumentsDelta
from engines.pooling_requests import PoolingRequest, ScoreRequest
from engines.requests import GenerateRequest
from tests.engines.simulated.making import answer, asking, engine

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}

_IN_ANOTHER_PROCESS = """
import asyncio
from tests.engines.simulated.making import answer, asking, engine
async def main():
    async with engine("other") as simulated:
        print((await answer(simulated, asking("tell me about the sea"))).text)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("count from 3 to 7", "3 4 5 6 7"),
        ("Please COUNT from 12 up to 10!", "12 11 10"),
        ("count 998 to 1002", "998 999 1000 1001 1002"),
        ("count from -1 to 1", "-1 0 1"),
        ("count from 4 to 4", "4"),
    ],
)
async def test_it_counts(text: str, says: str) -> None:
    async with engine() as simulated:
        assert (await answer(simulated, asking(text))).text == says


async def test_only_the_last_message_counts() -> None:
    messages = [
        {"role": "user", "content": "count from 1 to 3"},
        {"role": "assistant", "content": "1 2 3"},
        {"role": "user", "content": "count from 7 to 9"},
    ]
    async with engine() as simulated:
        assert (await answer(simulated, GenerateRequest(model="model", messages=messages))).text == "7 8 9"


async def test_greedy_answers_are_the_same_in_every_process() -> None:
    async with engine() as simulated:
        here = (await answer(simulated, asking("tell me about the sea"))).text
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _IN_ANOTHER_PROCESS], capture_output=True, text=True, check=True
    )
    assert ran.stdout == here + "\n"
    assert len(here.split()) >= 16


async def test_other_prompts_get_other_answers() -> None:
    async with engine() as simulated:
        answers = {(await answer(simulated, asking(f"tell me about {n}"))).text for n in range(20)}
    assert len(answers) == 20


async def test_a_seed_makes_a_warm_answer_repeat_and_choices_differ() -> None:
    async with engine() as simulated:
        warm = asking("tell me", sampling={"temperature": 1.0, "seed": -5, "n": 3})
        first, second = await answer(simulated, warm), await answer(simulated, warm)
        unseeded = [await answer(simulated, asking("tell me", sampling={"temperature": 1.0})) for _ in range(2)]
    assert first.choices == second.choices
    assert len({choice.text for choice in first.choices}) == 3
    assert unseeded[0].text != unseeded[1].text


@pytest.mark.parametrize(
    ("fields", "tokens", "reason"),
    [
        ({"max_tokens": 4}, 4, "length"),
        ({"max_tokens": 100}, 10, "stop"),
        ({"min_tokens": 30}, 31, "stop"),
        ({"min_tokens": 30, "max_tokens": 30}, 30, "length"),
        ({"ignore_eos": True, "max_tokens": 50}, 50, "length"),
    ],
)
async def test_an_answer_has_the_length_that_was_asked_for(fields: dict[str, Any], tokens: int, reason: str) -> None:
    async with engine() as simulated:
        completion = await answer(simulated, asking("count from 1 to 9", sampling=fields))
    assert completion.usage.completion_tokens == len(completion.choices[0].token_ids) == tokens
    assert completion.choices[0].reason == reason


async def test_ignoring_the_end_fills_the_context() -> None:
    async with engine(context_length=64) as simulated:
        completion = await answer(simulated, asking("go", sampling={"ignore_eos": True}))
    assert completion.usage.prompt_tokens + completion.usage.completion_tokens == 64


async def test_a_stop_token_ends_the_answer() -> None:
    async with engine() as simulated:
        whole = (await answer(simulated, asking("count from 1 to 9"))).choices[0]
        stop = whole.token_ids[3]
        hidden = (await answer(simulated, asking("count from 1 to 9", sampling={"stop_token_ids": [stop]}))).choices[0]
        shown_fields = {"stop_token_ids": [stop], "include_stop_str_in_output": True}
        shown = (await answer(simulated, asking("count from 1 to 9", sampling=shown_fields))).choices[0]
        late = (
            await answer(simulated, asking("count from 1 to 9", sampling={"stop_token_ids": [stop], "min_tokens": 4}))
        ).choices[0]
    assert (hidden.text, hidden.reason, hidden.stop_reason) == ("1 2 3", "stop", stop)
    assert hidden.token_ids == whole.token_ids[:4]
    assert shown.text == "1 2 3 4"
    assert late.text == whole.text


async def test_stop_strings_count_only_after_the_least_tokens() -> None:
    async with engine() as simulated:
        early = await answer(simulated, asking("count from 1 to 9", sampling={"stop": ["3"], "min_tokens": 2}))
        late = await answer(simulated, asking("count from 1 to 9", sampling={"stop": ["3", "7"], "min_tokens": 3}))
    assert (early.text, early.choices[0].stop_reason) == ("1 2 ", "3")
    assert (late.text, late.choices[0].stop_reason) == ("1 2 3 4 5 6 ", "7")


async def test_it_calls_the_tool_once_for_each_place() -> None:
    async with engine() as simulated:
        request = asking("What is the weather in Paris and New York?", tools=[TIME, WEATHER])
        calls = (await answer(simulated, request)).choices[0].tool_calls
        one = (await answer(simulated, request.model_copy(update={"parallel_tool_calls": False}))).choices[0].tool_calls
        pieces = [e async for e in simulated.generate(request, Context()) if isinstance(e, ToolCallArgumentsDelta)]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Paris"}, {"city": "New York"}]
    assert len({call.id for call in calls}) == 2
    assert one == calls[:1]
    assert len(pieces) > 4, "arguments are streamed in pieces"


async def test_it_tells_what_the_tool_said() -> None:
    call = {"id": "call_1", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "weather in Paris"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
    ]
    async with engine() as simulated:
        request = GenerateRequest(model="model", messages=messages, tools=[WEATHER])
        assert (await answer(simulated, request)).text == "The tool says: 18 degrees"


@pytest.mark.parametrize(
    ("choice", "name"),
    [("none", None), (None, None), ("required", "get_weather"), ({"function": {"name": "get_time"}}, "get_time")],
)
async def test_a_tool_is_called_as_the_tool_choice_says(choice: Any, name: str | None) -> None:
    async with engine() as simulated:
        completion = await answer(simulated, asking("hello", tools=[TIME, WEATHER], tool_choice=choice))
    assert [call.name for call in completion.choices[0].tool_calls] == ([name] if name else [])


async def test_thinking_is_turned_on_and_has_no_budget() -> None:
    async with engine() as simulated:
        on = await answer(simulated, asking("count from 1 to 3", thinking={"enabled": True}))
        off = await answer(simulated, asking("count from 1 to 3", thinking={"enabled": False}))
        with pytest.raises(Unsupported) as refused:
            await answer(simulated, asking("hello", thinking={"enabled": True, "budget_tokens": 100}))
    assert on.choices[0].reasoning and not off.choices[0].reasoning
    assert refused.value.param == "thinking.budget_tokens"


async def test_reasoning_is_told_apart_and_can_be_left_out() -> None:
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    async with engine() as simulated:
        told = await answer(simulated, asking("count from 1 to 3", **thinking))
        untold = await answer(simulated, asking("count from 1 to 3", include_reasoning=False, **thinking))
        cut = await answer(simulated, asking("count from 1 to 3", sampling={"max_tokens": 4}, **thinking))
        request = asking("count from 1 to 3", sampling={"max_tokens": 3}, include_reasoning=False, **thinking)
        silent = [event async for event in simulated.generate(request, Context())]
    assert told.text == untold.text == "1 2 3"
    assert told.choices[0].reasoning and not untold.choices[0].reasoning
    assert told.choices[0].token_ids == untold.choices[0].token_ids
    assert told.usage.reasoning_tokens == untold.usage.reasoning_tokens > 8
    assert (cut.text, len(cut.choices[0].reasoning.split()), cut.usage.reasoning_tokens) == ("", 4, 4)
    assert not any(isinstance(event, ReasoningDelta) for event in silent)
    assert isinstance(silent[1], TextDelta) and len(silent[1].token_ids) == 3


@pytest.mark.parametrize(
    ("guided", "check"),
    [
        ({"choice": ["river", "sea"]}, lambda text: text in ("river", "sea")),
        ({"json_object": True}, lambda text: isinstance(json.loads(text), dict)),
        (
            {"json_schema": {"type": "array", "items": {"type": "boolean"}, "minItems": 2}},
            lambda t: t == "[true, true]",
        ),
    ],
)
async def test_a_guide_is_kept_whatever_else_is_asked(guided: dict[str, Any], check: Any) -> None:
    async with engine() as simulated:
        for more in ({}, {"ignore_eos": True}, {"min_tokens": 40}):
            completion = await answer(simulated, asking("hello", sampling={"guided": guided, **more}))
            assert check(completion.text)
            assert completion.choices[0].reason == "stop"


@pytest.mark.parametrize(
    ("request_", "error", "param"),
    [
        (asking("a", sampling={"guided": {"regex": "a+"}}), Unsupported, "sampling.guided.regex"),
        (asking("a", sampling={"guided": {"grammar": "root ::= a"}}), Unsupported, "sampling.guided.grammar"),
        (asking("a", sampling={"logit_bias": {5: 1.0}}), Unsupported, "sampling.logit_bias"),
        (asking("a", sampling={"bad_words": ["b"]}), Unsupported, "sampling.bad_words"),
        (asking("a", sampling={"allowed_token_ids": [5]}), Unsupported, "sampling.allowed_token_ids"),
        (
            asking("a", tools=[WEATHER], tool_choice="required", sampling={"guided": {"json_object": True}}),
            InvalidRequest,
            "tool_choice",
        ),
        (GenerateRequest(model="model", prompt=""), InvalidRequest, "prompt"),
        (GenerateRequest(model="model", prompt_token_ids=[10**6]), InvalidRequest, "prompt_token_ids"),
        (
            GenerateRequest(model="model", messages=[{"role": "user", "content": [IMAGE]}]),
            Unsupported,
            "messages[0].content[0]",
        ),
    ],
)
async def test_what_it_cannot_do_is_refused_by_name(
    request_: GenerateRequest, error: type[PenstockError], param: str
) -> None:
    async with engine() as simulated:
        with pytest.raises(error) as caught:
            await answer(simulated, request_)
        assert caught.value.param == param
        assert simulated.load().running == simulated.load().queued == 0


async def test_logprobs_are_those_of_a_distribution() -> None:
    async with engine() as simulated:
        request = asking("hello", sampling={"logprobs": 20, "n": 2, "stop": ["never"]})
        choice = (await answer(simulated, request)).choices[1]
    assert choice.logprobs is not None
    assert [entry.token_id for entry in choice.logprobs] == list(choice.token_ids)
    for entry in choice.logprobs:
        assert len({top.token_id for top in entry.top}) == 20
        assert sum(2.718281828**top.logprob for top in entry.top) <= 1


async def test_embeddings_can_be_shortened_and_inputs_cut() -> None:
    async with engine(embedding_size=32, context_length=16) as simulated:

        async def embed(inputs: Any, **fields: Any) -> list[tuple[float, ...]]:
            request = EmbedRequest(model="model", inputs=inputs, **fields)
            made = await simulated.embed(request, Context())
            return [made.floats(index) for index in range(len(made))]

        (whole,) = await embed(["a river"])
        (short,) = await embed(["a river"], dimensions=8)
        assert (len(whole), len(short)) == (32, 8)
        assert [value * short[0] for value in whole[:8]] == pytest.approx([value * whole[0] for value in short])
        assert await embed(["river" + " river" * 20 + " sea"], truncate_prompt_tokens=2) == await embed([" river sea"])
        with pytest.raises(InvalidRequest, match="16"):
            await embed(["river " * 20])
        with pytest.raises(InvalidRequest, match="32 dimensions"):
            await embed(["a"], dimensions=33)
        with pytest.raises(InvalidRequest) as caught:
            await embed(["a", ""])
        assert caught.value.param == "inputs[1]"
    async with engine(embedding_size=0) as simulated:
        assert not simulated.capabilities.embed
        with pytest.raises(Unsupported):
            await simulated.embed(EmbedRequest(model="model", inputs=["a"]), Context())


async def test_documents_with_more_of_the_querys_words_score_higher() -> None:
    async with engine(context_length=16) as simulated:

        async def score(documents: list[str], queries: Sequence[str] = ("a river",), **fields: Any) -> Any:
            request = ScoreRequest(model="model", queries=list(queries), documents=documents, **fields)
            return (await simulated.score(request)).floats

        same, part, other = await score(["a river", "a mill", "the sea"])
        assert 1 > same > part > other > 0
        logit, _ = await score(["a river", "a mill"], use_activation=False)
        assert same == pytest.approx(1 / (1 + math.exp(-logit)))
        assert await score(["a mill", "a river"], queries=["a river", "a river"]) == (part, same)
        long = "a river" + " sea" * 30
        with pytest.raises(ContextOverflow) as caught:
            await score(["a", long])
        assert caught.value.param == "documents[1]"
        assert await score([long], truncate_prompt_tokens=4, truncation_side="right") == (same,)
        assert await score([long], max_tokens_per_doc=2) == (same,)
        with pytest.raises(Unsupported):
            await score(["a"], instruction="be kind")


async def test_each_task_pools_rows_of_its_own() -> None:
    async with engine(embedding_size=32) as simulated:
        for task, columns in (("embed", 32), ("classify", 3), ("token_embed", 32), ("token_classify", 3)):
            request = PoolingRequest.model_validate({"model": "model", "inputs": ["a river", "sea"], "task": task})
            pooled = await simulated.pooling(request)
            assert pooled.columns == columns and pooled.per_token == task.startswith("token_")
            assert sum(pooled.rows) == (pooled.prompt_tokens if pooled.per_token else 2)
            rows = [row for packed in pooled.packed() for row in pooled.floats(packed)]
            norms = [sum(row) if columns == 3 else math.hypot(*row) for row in rows]
            assert norms == pytest.approx([1.0] * len(rows), rel=1e-5)
        raw = await simulated.pooling(PoolingRequest(model="model", inputs=["sea"], use_activation=False))
        assert math.hypot(*next(iter(raw.floats(next(raw.packed()))))) == pytest.approx(2.0, rel=1e-5)
        huge = PoolingRequest(model="model", inputs=[[1] * 8000] * 70, task="token_embed")
        with pytest.raises(InvalidRequest) as caught:
            await simulated.pooling(huge)
        assert caught.value.param == "inputs"
    async with engine(embedding_size=0) as simulated:
        assert not simulated.capabilities.score and not simulated.capabilities.pooling
        with pytest.raises(Unsupported):
            await simulated.score(ScoreRequest(model="model", queries=["a"], documents=["a"]))
        with pytest.raises(Unsupported):
            await simulated.pooling(PoolingRequest(model="model", inputs=["a"]))


async def test_a_text_that_cannot_fit_is_refused_before_it_is_looked_at() -> None:
    async with engine(context_length=64) as simulated:
        began_s = time.monotonic()
        for ask in (
            lambda: answer(simulated, asking("a " * 8_000_000)),
            lambda: simulated.tokenize(TokenizeRequest(model="model", prompt="a " * 8_000_000)),
            lambda: simulated.embed(EmbedRequest(model="model", inputs=["a " * 8_000_000]), Context()),
        ):
            with pytest.raises(ContextOverflow):
                await ask()
        assert time.monotonic() - began_s < 1.0
        with pytest.raises(ContextOverflow):
            await simulated.tokenize(TokenizeRequest(model="model", prompt="a b " * 60))


async def test_a_limit_that_does_not_fit_is_an_error_or_what_fits() -> None:
    async with engine(context_length=64) as simulated:
        sampling = {"max_tokens": 1000, "ignore_eos": True}
        with pytest.raises(ContextOverflow):
            await answer(simulated, asking("hello", sampling=sampling))
        clipped = await answer(simulated, asking("hello", sampling=sampling | {"clip_max_tokens": True}))
        assert clipped.usage.prompt_tokens + clipped.usage.completion_tokens == 64
