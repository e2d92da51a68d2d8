"""A stream that goes on elsewhere says exactly what the first would have said: no token lost, none repeated.

Whatever it was asked for, and wherever it broke. What is neither greedy nor seeded still is what was asked for.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from engines.errors import EngineFailed, InvalidRequest
from engines.events import Delta, Event, Finished, Started, TextDelta
from engines.requests import GenerateRequest
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import TIME, WEATHER, chat, counting, ids_of, listen, still_serves, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

THINK = {"chat_template_kwargs": {"enable_thinking": True}}
SEED = {"temperature": 2.0, "seed": 7}
CHANCE = {"temperature": 2.0}
PENALTIES = {"frequency_penalty": 0.7, "presence_penalty": 0.3, "repetition_penalty": 1.2}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "ages": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name", "ages"],
    "additionalProperties": False,
}
REGEX = "[0-9]{3}-[a-z]{5,20}"
CHOICE = ["one two three four", "one two five", "six seven eight"]
GRAMMAR = 'root ::= ("a" | "b" | digit)* "."\ndigit ::= [0-9]\n'
TAG = json.dumps(
    {
        "type": "structural_tag",
        "format": {
            "type": "triggered_tags",
            "triggers": ["<x"],
            "tags": [{"begin": "<x>", "content": {"type": "regex", "pattern": "[a-f]{3,9}"}, "end": "</x>"}],
            "at_least_one": True,
        },
    }
)
STRICT = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}


def asking_for(guided: dict[str, Any], *more: dict[str, Any], **fields: Any) -> GenerateRequest:
    """A request for what is not a conversation."""
    sampling: dict[str, Any] = {"guided": guided, "max_tokens": 40}
    for change in more:
        sampling |= change
    return chat("describe Ada as json", sampling=sampling, **fields)


REQUESTS = {
    "counting": counting(1, 30),
    "length": counting(1, 30, max_tokens=17),
    "stop string": counting(1, 60, stop=["9 20", "77"]),
    "stop string kept": counting(1, 60, stop=["9 20"], include_stop_str_in_output=True),
    "min tokens": counting(1, 2, min_tokens=12, max_tokens=20),
    "reasoning": chat("what is the capital of France", **THINK),
    "tool call": chat("what is the weather in Paris", tools=[WEATHER]),
    "reasoning and tool call": chat("what is the weather in Paris", tools=[WEATHER], **THINK),
    # Half characters: the raw bytes are the first tokens of the vocabulary.
    "bytes": chat("hello", sampling={"allowed_token_ids": list(range(150, 256)), "max_tokens": 24, "seed": 1}),
    "seed": chat("hello there", sampling=SEED | {"max_tokens": 40}),
    "penalties": chat("hello there", sampling=PENALTIES | {"max_tokens": 40, "min_tokens": 30}),
    "penalties and seed": chat("hello there", sampling=PENALTIES | SEED | {"max_tokens": 40}),
    "schema": asking_for({"json_schema": SCHEMA}),
    "schema and seed": asking_for({"json_schema": SCHEMA}, SEED, PENALTIES),
    "schema after reasoning": asking_for({"json_schema": SCHEMA}, {"max_tokens": 120}, **THINK),
    "regex": asking_for({"regex": REGEX}, SEED),
    "choice": asking_for({"choice": CHOICE}, SEED),
    "grammar": asking_for({"grammar": GRAMMAR}, SEED, PENALTIES),
    "structural tag": asking_for({"structural_tag": TAG}, SEED),
    "forced tool": chat("what is the weather in Paris", tools=[WEATHER, TIME], tool_choice="required"),
    "named tool": chat(
        "what is the weather in Paris",
        tools=[WEATHER, TIME],
        tool_choice={"type": "function", "function": {"name": "get_time"}},
        sampling=SEED | {"max_tokens": 60},
    ),
    "strict tools": chat("what is the weather in Paris", tools=[STRICT]),
    "one call": chat("what is the weather in Paris and in Rome", tools=[WEATHER], parallel_tool_calls=False),
    "forced tool after reasoning": chat(
        "what is the weather in Paris", tools=[WEATHER], tool_choice="required", **THINK
    ),
    "three choices": chat("hello there", sampling=SEED | PENALTIES | {"n": 3, "max_tokens": 30}),
    "three schemas": asking_for({"json_schema": SCHEMA}, SEED, {"n": 3}),
}


def flatten(events: list[Event]) -> dict[int, list[tuple[Any, ...]]]:
    """What each choice said, without the borders between events of a kind, and without the random call ids."""
    choices: dict[int, list[tuple[Any, ...]]] = {}
    for event in events:
        if isinstance(event, Started | Finished):
            continue
        said = choices.setdefault(event.index, [])
        text = getattr(event, "text", getattr(event, "arguments", None))
        kind = (type(event).__name__, getattr(event, "call", None), getattr(event, "name", None))
        if text is not None and said and said[-1][:-1] == kind:
            said[-1] = (*kind, said[-1][-1] + text)
        elif text != "":
            said.append((*kind, text))
    return choices


def generated(events: Sequence[Event], n: int) -> list[list[int]]:
    """The ids of each choice."""
    return [ids_of(*(event for event in events if getattr(event, "index", None) == index)) for index in range(n)]


def going_on(request: GenerateRequest, head: Sequence[Event]) -> GenerateRequest:
    """The request that goes on behind these events."""
    resume = {"choices": generated(head, request.sampling.n)}
    return GenerateRequest.model_validate(request.model_dump() | {"resume": resume})


def cuts(deltas: Sequence[Delta], most: int) -> list[int]:
    """Where a frame may end: behind all that one step said, thus before the next event that has ids; and at the end."""
    found = [number for number, delta in enumerate(deltas) if ids_of(delta)] + [len(deltas)]
    return sorted({*found[:: max(1, len(found) // most)], *found[-2:]})


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_goes_on_at_any_event(vllm_engine: VllmEngine, request_: GenerateRequest) -> None:
    n = request_.sampling.n
    whole = await listen(vllm_engine, request_)
    started, finished = whole[0], whole[-1]
    assert isinstance(started, Started) and started.resumable
    assert isinstance(finished, Finished)
    deltas: list[Delta] = whole[1:-1]  # type: ignore[assignment]
    places = cuts(deltas, 20)
    rests = await asyncio.gather(*(listen(vllm_engine, going_on(request_, deltas[:cut])) for cut in places))
    for cut, rest in zip(places, rests, strict=True):
        head = deltas[:cut]
        assert flatten([*head, *rest]) == flatten(list(whole)), f"cut at {cut}"
        assert generated([*head, *rest], n) == generated(deltas, n), f"cut at {cut}"
        end = rest[-1]
        assert isinstance(end, Finished)
        assert (end.reasons, end.stop_reasons) == (finished.reasons, finished.stop_reasons)
        assert end.usage.completion_tokens == finished.usage.completion_tokens
        assert end.usage.prompt_tokens == finished.usage.prompt_tokens
        assert end.usage.reasoning_tokens == finished.usage.reasoning_tokens


@pytest.mark.parametrize(
    ("guided", "is_valid"),
    [
        ({"json_schema": SCHEMA}, lambda text: json.loads(text).keys() == {"name", "ages"}),
        ({"regex": REGEX}, lambda text: re.fullmatch(REGEX, text)),
        ({"choice": CHOICE}, lambda text: text in CHOICE),
        ({"grammar": GRAMMAR}, lambda text: re.fullmatch(r"[ab0-9]*\.", text)),
        ({"structural_tag": TAG}, lambda text: re.fullmatch(r"(.*<x>[a-f]{3,9}</x>)+.*", text, re.DOTALL)),
    ],
    ids=["schema", "regex", "choice", "grammar", "structural tag"],
)
async def test_what_is_drawn_anew_fits_what_was_said(vllm_engine: VllmEngine, guided: Any, is_valid: Any) -> None:
    request = asking_for(guided, CHANCE, {"max_tokens": 300})
    whole = await listen(vllm_engine, request)
    deltas: list[Delta] = whole[1:-1]  # type: ignore[assignment]
    places = cuts(deltas, 12)
    rests = await asyncio.gather(*(listen(vllm_engine, going_on(request, deltas[:cut])) for cut in places))
    for cut, rest in zip(places, rests, strict=True):
        end = rest[-1]
        assert isinstance(end, Finished)
        text = text_of(*deltas[:cut], *rest)
        assert end.reason == "length" or is_valid(text), (cut, text)


async def test_what_was_cached_of_the_prompt_is_told(vllm_engine: VllmEngine) -> None:
    request = chat("once upon a time " * 40, sampling={"max_tokens": 100, "min_tokens": 100})
    whole = await listen(vllm_engine, request)
    deltas: list[Delta] = whole[1:-1]  # type: ignore[assignment]
    rest = await listen(vllm_engine, going_on(request, deltas[:-3]))
    end = rest[-1]
    assert isinstance(end, Finished)
    # The cache holds what was generated, too, and that is no prompt.
    assert end.usage.prompt_tokens // 2 < end.usage.cached_tokens <= end.usage.prompt_tokens


async def test_many_at_once(vllm_engine: VllmEngine) -> None:
    names = ["counting", "seed", "schema and seed", "penalties and seed", "three schemas", "forced tool"]
    wholes = await asyncio.gather(*(listen(vllm_engine, REQUESTS[name]) for name in names))
    parts = [
        (whole, REQUESTS[name], cut)
        for name, whole in zip(names, wholes, strict=True)
        for cut in cuts(whole[1:-1], 16)  # type: ignore[arg-type]
    ]
    rests = await asyncio.gather(
        *(listen(vllm_engine, going_on(request, whole[1 : 1 + cut])) for whole, request, cut in parts)
    )
    for (whole, request, cut), rest in zip(parts, rests, strict=True):
        n = request.sampling.n
        assert generated([*whole[1 : 1 + cut], *rest], n) == generated(whole, n)


async def test_ids_that_are_no_tokens_are_refused(vllm_engine: VllmEngine) -> None:
    with pytest.raises(InvalidRequest) as invalid:
        await listen(vllm_engine, chat("hello", resume={"choices": [[2**30]]}))
    assert invalid.value.param == "resume.choices"


async def test_ids_that_the_grammar_forbids_fail_alone(vllm_engine: VllmEngine) -> None:
    request = asking_for({"regex": "[0-9]+"})
    ids = generated(await listen(vllm_engine, chat("hello")), 1)
    wrong = GenerateRequest.model_validate(request.model_dump() | {"resume": {"choices": [ids[0][:2]]}})
    with pytest.raises(EngineFailed):
        await listen(vllm_engine, wrong)
    await still_serves(vllm_engine)


async def test_nothing_generated_yet_is_a_fresh_start(vllm_engine: VllmEngine) -> None:
    fresh = await listen(vllm_engine, counting(1, 9))
    resumed = await listen(vllm_engine, chat("count from 1 to 9", resume={}))
    assert flatten(fresh) == flatten(resumed)
    assert any(isinstance(event, TextDelta) for event in resumed)
