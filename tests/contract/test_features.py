"""What not every engine can do, done alike by those that can."""

import json
import math

import pytest

from engines.call_requests import DetokenizeRequest, EmbedRequest, TokenizeRequest
from engines.context import Context
from engines.errors import Unsupported
from engines.events import (
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from engines.pooling_requests import PoolingRequest, PoolingTask, ScoreRequest
from engines.requests import Resume
from engines.simulated.engine import SimulatedEngine
from engines.vllm.engine import VllmEngine
from tests.contract.asking import WEATHER, Running, counted

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_tool_call_comes_in_order(subject: Running) -> None:
    subject.needs("tools")
    events = await subject.listen(subject.request("what is the weather in Paris?", tools=[WEATHER]))
    calls = [e for e in events if isinstance(e, (ToolCallStarted, ToolCallArgumentsDelta, ToolCallFinished))]
    assert isinstance(calls[0], ToolCallStarted)
    assert calls[0].name == "get_weather" and calls[0].id
    assert isinstance(calls[-1], ToolCallFinished)
    pieces = [event for event in calls[1:-1] if isinstance(event, ToolCallArgumentsDelta)]
    assert len(pieces) == len(calls) - 2
    assert json.loads("".join(piece.arguments for piece in pieces)) == {"city": "Paris"}
    assert isinstance(events[-1], Finished) and events[-1].reason == "tool_calls"


async def test_no_tool_is_called_when_forbidden(subject: Running) -> None:
    subject.needs("tools")
    request = subject.request("what is the weather in Paris?", tools=[WEATHER], tool_choice="none")
    assert not (await subject.ask(request)).choices[0].tool_calls


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_forced_tool_is_called(subject: Running, choice: object) -> None:
    subject.needs("tools")
    request = subject.request("what is the weather in Rome?", tools=[WEATHER], tool_choice=choice)
    (call,) = (await subject.ask(request)).choices[0].tool_calls
    assert call.name == "get_weather"
    assert isinstance(json.loads(call.arguments)["city"], str)


async def test_reasoning_comes_before_the_answer(subject: Running) -> None:
    subject.needs("reasoning")
    request = subject.request("count from 3 to 7", chat_template_kwargs={"enable_thinking": True})
    events = await subject.listen(request)
    kinds = [type(event) for event in events if isinstance(event, (ReasoningDelta, TextDelta)) and event.text]
    assert kinds[0] is ReasoningDelta and kinds[-1] is TextDelta
    assert kinds == sorted(kinds, key=lambda kind: kind is TextDelta)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)).strip() == counted(3, 7)


async def test_a_json_schema_holds(subject: Running) -> None:
    subject.needs("guided")
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    sampling = {"guided": {"json_schema": schema}, "max_tokens": 200}
    value = json.loads((await subject.ask(subject.request("describe Ada as json", sampling=sampling))).text)
    assert set(value) == {"name", "age"}
    assert isinstance(value["name"], str) and isinstance(value["age"], int)


@pytest.mark.parametrize("text", ["", "count from 1 to 9", " two  spaces\n", "été, 水車, \N{WATER WAVE}", "<|end|>"])
async def test_text_survives_tokenizing(subject: Running, text: str) -> None:
    subject.needs("tokenize")
    request = TokenizeRequest(model=subject.model, prompt=text, add_special_tokens=False)
    tokenized = await subject.engine.tokenize(request)
    assert tokenized.context_length == subject.engine.capabilities.context_length
    back = DetokenizeRequest(model=subject.model, token_ids=tokenized.token_ids)
    assert await subject.engine.detokenize(back) == text


async def test_a_conversation_is_tokenized_as_it_is_generated_from(subject: Running) -> None:
    subject.needs("tokenize")
    request = subject.counting(3, 5)
    tokenized = await subject.engine.tokenize(TokenizeRequest(model=subject.model, messages=request.messages))
    assert len(tokenized.token_ids) == (await subject.ask(request)).usage.prompt_tokens


async def test_embeddings_depend_on_the_text_alone(subject: Running) -> None:
    request = EmbedRequest(model=subject.model, inputs=["a river", "a mountain", "a river"])
    if not subject.engine.capabilities.embed:
        with pytest.raises(Unsupported):
            await subject.engine.embed(request, Context())
        return
    embeddings = await subject.engine.embed(request, Context())
    first, second, third = map(embeddings.floats, range(3))
    assert first == third != second
    assert len(first) == len(second)
    assert math.isclose(sum(value * value for value in first), 1.0, rel_tol=1e-3)
    assert embeddings.prompt_tokens > 0
    assert embeddings.engine in subject.names


async def test_scores_depend_on_the_texts_alone(subject: Running) -> None:
    documents = ["a river", "a mountain", "a river"]
    request = ScoreRequest(model=subject.model, queries=["a river"], documents=documents)
    if not subject.engine.capabilities.score:
        with pytest.raises(Unsupported):
            await subject.engine.score(request, Context())
        return
    scores = await subject.engine.score(request, Context())
    first, second, third = scores.floats
    assert first == third > second
    assert scores.prompt_tokens > 0
    assert scores.engine in subject.names
    alone = await subject.engine.score(request.model_copy(update={"documents": documents[1:2]}))
    assert alone.floats == (second,)


@pytest.mark.parametrize("task", ["embed", "token_embed"])
async def test_what_is_pooled_depends_on_the_text_alone(subject: Running, task: PoolingTask) -> None:
    request = PoolingRequest(model=subject.model, inputs=["a river", "a mountain", "a river"], task=task)
    if not subject.engine.capabilities.pooling:
        with pytest.raises(Unsupported):
            await subject.engine.pooling(request, Context())
        return
    pooled = await subject.engine.pooling(request, Context())
    first, second, third = map(bytes, pooled.packed())
    assert first == third != second
    assert pooled.per_token == (task == "token_embed")
    assert sum(pooled.rows) == (pooled.prompt_tokens if pooled.per_token else 3)
    assert pooled.engine in subject.names


async def test_hidden_reasoning_leaves_its_ids_and_nothing_else(subject: Running) -> None:
    subject.is_ours()
    subject.needs("reasoning", "logprobs")
    fields = {"chat_template_kwargs": {"enable_thinking": True}}
    for max_tokens in (3, 400):
        sampling = {"logprobs": 0, "max_tokens": max_tokens}
        shown = await subject.ask(subject.request("count from 3 to 7", sampling=sampling, **fields))
        hidden = await subject.ask(
            subject.request("count from 3 to 7", sampling=sampling, include_reasoning=False, **fields)
        )
        assert hidden.choices[0].token_ids == shown.choices[0].token_ids
        assert not hidden.choices[0].reasoning
        said = "".join(logprob.token for logprob in hidden.choices[0].logprobs or ())
        assert said.startswith(hidden.text) and len(said) < len(hidden.text) + 15, "only an end mark more"


async def test_an_engine_that_sleeps_says_the_same_after_it_and_one_that_cannot_says_so(subject: Running) -> None:
    before = await subject.ask(subject.counting(3, 7))
    if isinstance(subject.engine, SimulatedEngine | VllmEngine):
        for level in (1, 2):
            await subject.engine.sleep(level)
            await subject.engine.check_health()
            await subject.engine.wake()
            assert (await subject.ask(subject.counting(3, 7))).text == before.text
    else:
        for changing in (subject.engine.sleep(1), subject.engine.wake()):
            with pytest.raises(Unsupported, match="cannot sleep"):
                await changing
    assert (await subject.ask(subject.counting(3, 7))).text == before.text


async def test_a_resumed_request_says_exactly_the_rest(subject: Running) -> None:
    subject.needs("resume")
    request = subject.counting(1, 12)
    events = [e for e in await subject.listen(request) if isinstance(e, TextDelta)]
    for cut in range(len(events) + 1):
        said, rest = events[:cut], events[cut:]
        token_ids = [token_id for event in said for token_id in event.token_ids]
        resumed = request.model_copy(update={"resume": Resume(choices=[token_ids])})
        completion = await subject.ask(resumed)
        assert completion.text == "".join(event.text for event in rest)
        assert completion.choices[0].reason == "stop"
        assert completion.usage.completion_tokens == sum(len(event.token_ids) for event in events)


async def test_a_resumed_tool_call_goes_on_where_it_broke(subject: Running) -> None:
    subject.needs("resume", "tools")
    request = subject.request("what is the weather in Paris?", tools=[WEATHER])
    whole = (await subject.ask(request)).choices[0]
    for cut in range(0, len(whole.token_ids), 3):
        resumed = request.model_copy(update={"resume": Resume(choices=[list(whole.token_ids[:cut])])})
        events = await subject.listen(resumed)
        rest = "".join(event.arguments for event in events if isinstance(event, ToolCallArgumentsDelta))
        assert whole.tool_calls[0].arguments.endswith(rest)
        assert isinstance(events[-1], Finished) and events[-1].reason == "tool_calls"
