"""A stream that goes on elsewhere says exactly what the first would have said: no token lost, none repeated."""

from typing import Any

import pytest

from engines.errors import InvalidRequest, Unsupported
from engines.events import Delta, Event, Finished, Started, TextDelta
from engines.requests import GenerateRequest
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import WEATHER, chat, counting, ids_of, listen

pytestmark = pytest.mark.asyncio(loop_scope="session")

THINK = {"chat_template_kwargs": {"enable_thinking": True}}
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
}


def flatten(events: list[Event]) -> list[tuple[Any, ...]]:
    """What was said, without the borders between events of a kind, and without the random call ids."""
    said: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, Started | Finished):
            continue
        text = getattr(event, "text", getattr(event, "arguments", None))
        kind = (type(event).__name__, getattr(event, "call", None), getattr(event, "name", None))
        if text is not None and said and said[-1][:-1] == kind:
            said[-1] = (*kind, said[-1][-1] + text)
        elif text != "":
            said.append((*kind, text))
    return said


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_goes_on_at_any_event(vllm_engine: VllmEngine, request_: GenerateRequest) -> None:
    whole = await listen(vllm_engine, request_)
    finished = whole[-1]
    assert isinstance(finished, Finished)
    deltas: list[Delta] = whole[1:-1]  # type: ignore[assignment]
    # Cut where a frame may end: behind everything that one step said, thus before the next event that has ids.
    cuts = [number for number, delta in enumerate(deltas) if ids_of(delta)] + [len(deltas)]
    for cut in cuts[:: max(1, len(cuts) // 12)] + cuts[-2:]:
        head = deltas[:cut]
        generated = ids_of(*head)
        resumed = GenerateRequest.model_validate(request_.model_dump() | {"resume": {"token_ids": generated}})
        rest = await listen(vllm_engine, resumed)
        assert flatten([*head, *rest]) == flatten(list(whole)), f"cut at {cut}"
        ids = generated + ids_of(*rest)
        assert ids == ids_of(*deltas), f"cut at {cut}"
        end = rest[-1]
        assert isinstance(end, Finished)
        assert (end.reasons, end.stop_reasons) == (finished.reasons, finished.stop_reasons)
        assert end.usage.completion_tokens == finished.usage.completion_tokens
        assert end.usage.prompt_tokens == finished.usage.prompt_tokens
        assert end.usage.reasoning_tokens == finished.usage.reasoning_tokens


async def test_what_cannot_be_rebuilt_is_refused(vllm_engine: VllmEngine) -> None:
    resume = {"token_ids": [5, 6]}
    for request in (
        chat("hello", sampling={"n": 2}, resume=resume),
        chat("hello", sampling={"guided": {"regex": "[0-9]+"}}, resume=resume),
        chat("what is the weather in Paris", tools=[WEATHER], tool_choice="required", resume=resume),
    ):
        with pytest.raises(Unsupported) as refused:
            await listen(vllm_engine, request)
        assert refused.value.param == "resume"
    with pytest.raises(InvalidRequest) as invalid:
        await listen(vllm_engine, chat("hello", resume={"token_ids": [2**30]}))
    assert invalid.value.param == "resume.token_ids"


async def test_nothing_generated_yet_is_a_fresh_start(vllm_engine: VllmEngine) -> None:
    fresh = await listen(vllm_engine, counting(1, 9))
    resumed = await listen(vllm_engine, chat("count from 1 to 9", resume={"token_ids": []}))
    assert flatten(fresh) == flatten(resumed)
    assert any(isinstance(event, TextDelta) for event in resumed)
