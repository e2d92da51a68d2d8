"""What a stream says, and in which order."""

import asyncio

import pytest

from engines.call_requests import DetokenizeRequest, TokenizeRequest
from engines.completion import Collector
from engines.context import Context
from engines.events import Delta, Finished, Started, TextDelta
from engines.requests import GenerateRequest, Sampling
from tests.contract.asking import DEADLINE_S, Recorder, Running, counted

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_stream_is_started_then_deltas_then_finished(subject: Running) -> None:
    # Long enough that a pause of this process does not make one piece of it.
    events = await subject.listen(subject.counting(3, 100))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert all(isinstance(event, Delta) for event in events[1:-1])
    assert len(events) > 3, "an answer of many tokens must not come as one piece"


async def test_started_and_finished_name_the_engine_and_the_model(subject: Running) -> None:
    events = await subject.listen(subject.counting(3, 5))
    started, finished = events[0], events[-1]
    assert isinstance(started, Started) and isinstance(finished, Finished)
    assert started.engine == finished.engine
    assert started.engine in subject.names
    assert started.model == subject.model


async def test_it_answers_right_and_says_why_it_ended(subject: Running) -> None:
    completion = await subject.ask(subject.counting(12, 31))
    assert completion.text == counted(12, 31)
    assert completion.choices[0].reason == "stop"
    assert completion.choices[0].stop_reason is None


async def test_usage_counts_the_tokens(subject: Running) -> None:
    events = await subject.listen(subject.counting(7, 19))
    started, finished = events[0], events[-1]
    assert isinstance(started, Started) and isinstance(finished, Finished)
    assert finished.usage.prompt_tokens > 0
    assert started.prompt_tokens in (None, finished.usage.prompt_tokens)
    assert finished.usage.cached_tokens <= finished.usage.prompt_tokens
    ids = [token_id for event in events if isinstance(event, TextDelta) for token_id in event.token_ids]
    if ids:
        assert finished.usage.completion_tokens == len(ids)


@pytest.mark.parametrize("max_tokens", [1, 2, 40])
async def test_max_tokens_ends_an_answer(subject: Running, max_tokens: int) -> None:
    completion = await subject.ask(subject.counting(1, 3, max_tokens=max_tokens, ignore_eos=True))
    assert completion.choices[0].reason == "length"
    assert completion.usage.completion_tokens == max_tokens
    assert completion.text


async def test_an_answer_cut_short_is_the_beginning_of_the_whole(subject: Running) -> None:
    whole = counted(20, 40)
    for max_tokens in range(1, 8):
        completion = await subject.ask(subject.counting(20, 40, max_tokens=max_tokens))
        assert whole.startswith(completion.text)
        assert completion.choices[0].reason == "length"


async def test_a_stop_string_ends_an_answer_and_is_not_part_of_it(subject: Running) -> None:
    completion = await subject.ask(subject.counting(3, 9, stop=["never", "7"]))
    assert completion.text == "3 4 5 6 "
    assert completion.choices[0].reason == "stop"
    assert completion.choices[0].stop_reason == "7"


async def test_a_stop_string_across_tokens_is_found(subject: Running) -> None:
    completion = await subject.ask(subject.counting(3, 9, stop=["5 6 7"]))
    assert completion.text == "3 4 "
    assert completion.choices[0].stop_reason == "5 6 7"


async def test_a_stop_string_is_part_of_the_answer_when_asked_for(subject: Running) -> None:
    completion = await subject.ask(subject.counting(3, 9, stop=["5 6"], include_stop_str_in_output=True))
    assert completion.text == "3 4 5 6"


async def test_text_that_only_begins_a_stop_string_is_not_lost(subject: Running) -> None:
    completion = await subject.ask(subject.counting(3, 9, stop=["5 7", "9 10"]))
    assert completion.text == counted(3, 9)
    assert completion.choices[0].stop_reason is None


async def test_every_choice_of_several_is_whole(subject: Running) -> None:
    subject.is_ours()
    completion = await subject.ask(subject.counting(4, 11, n=3))
    assert [choice.text for choice in completion.choices] == [counted(4, 11)] * 3
    assert [choice.reason for choice in completion.choices] == ["stop"] * 3
    ids = sum(len(choice.token_ids) for choice in completion.choices)
    assert ids in (0, completion.usage.completion_tokens)


async def test_push_and_pull_say_the_same(subject: Running) -> None:
    request = subject.counting(8, 20)
    pulled = await subject.ask(request)
    collector = Collector()
    await subject.engine.submit(request, Context(), collector)
    async with asyncio.timeout(DEADLINE_S):
        pushed = await collector.completion
    assert pushed.choices == pulled.choices
    assert pushed.usage.completion_tokens == pulled.usage.completion_tokens
    assert pushed.usage.prompt_tokens == pulled.usage.prompt_tokens


async def test_a_pushed_stream_ends_exactly_once(subject: Running) -> None:
    recorder = Recorder()
    await subject.engine.submit(subject.counting(2, 12), Context(), recorder)
    await recorder.over()
    await subject.is_idle()
    assert recorder.finished is not None and not recorder.broken
    assert recorder.text == counted(2, 12)


async def test_greedy_answers_repeat(subject: Running) -> None:
    request = subject.request("tell me about the sea", sampling={"max_tokens": 24, "ignore_eos": True})
    assert (await subject.ask(request)).text == (await subject.ask(request)).text


async def test_token_ids_say_the_text(subject: Running) -> None:
    subject.needs("tokenize")
    choice = (await subject.ask(subject.counting(88, 104))).choices[0]
    if not choice.token_ids:
        pytest.skip("it does not know its token ids")
    text = await subject.engine.detokenize(
        DetokenizeRequest(model=subject.model, token_ids=list(choice.token_ids)),
    )
    assert text.startswith(choice.text), "only an end token may follow"


async def test_a_prompt_of_text_and_of_token_ids_are_answered_alike(subject: Running) -> None:
    subject.needs("tokenize")
    sampling = Sampling(temperature=0.0, max_tokens=12)
    text = "count from 3 to 9"
    ids = (await subject.engine.tokenize(TokenizeRequest(model=subject.model, prompt=text))).token_ids
    by_text = await subject.ask(GenerateRequest(model=subject.model, prompt=text, sampling=sampling))
    by_ids = await subject.ask(GenerateRequest(model=subject.model, prompt_token_ids=ids, sampling=sampling))
    assert by_text.text == by_ids.text
    assert by_text.usage.prompt_tokens == by_ids.usage.prompt_tokens == len(ids)


async def test_logprobs_belong_to_the_tokens(subject: Running) -> None:
    subject.needs("logprobs")
    choice = (await subject.ask(subject.counting(3, 9, logprobs=2))).choices[0]
    assert choice.logprobs
    knows_ids = subject.engine.capabilities.tokenize
    if knows_ids:
        spoken = [entry for entry in choice.logprobs if entry.token_id in choice.token_ids]
        assert len(spoken) == len(choice.logprobs) <= len(choice.token_ids)
    for entry in choice.logprobs:
        assert entry.logprob <= 0
        assert len(entry.top) == 2
        assert [top.logprob for top in entry.top] == sorted((top.logprob for top in entry.top), reverse=True)
        drawn, *likeliest = (each.token_id if knows_ids else each.utf8 for each in (entry, *entry.top))
        assert drawn in likeliest, "greedy takes the likeliest"
    text = b"".join(entry.utf8 for entry in choice.logprobs).decode()
    assert text.startswith(choice.text)


async def test_logprobs_of_the_drawn_token_alone(subject: Running) -> None:
    subject.needs("logprobs")
    choice = (await subject.ask(subject.counting(3, 5, logprobs=0))).choices[0]
    assert choice.logprobs and all(not entry.top for entry in choice.logprobs)
