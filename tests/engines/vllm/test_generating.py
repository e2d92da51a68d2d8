"""Real tokens from a real vLLM: texts, ids, log probabilities, choices, limits."""

import pytest

from engines.call_requests import DetokenizeRequest, TokenizeRequest
from engines.context import Context
from engines.contract import Load
from engines.errors import ContextOverflow, InvalidRequest, Unsupported
from engines.events import Finished, Started, TextDelta
from engines.requests import GenerateRequest, TenantShare
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import answer, ask, chat, counted, counting, ids_of, listen, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_counts(vllm_engine: VllmEngine) -> None:
    completion = await ask(vllm_engine, counting(1, 200))
    choice = completion.choices[0]
    assert choice.text == counted(1, 200)
    assert choice.reason == "stop"
    assert completion.engine == "vllm-0"
    assert len(choice.token_ids) == completion.usage.completion_tokens
    assert completion.usage.prompt_tokens > 0


async def test_every_token_travels_once_and_with_its_text(vllm_engine: VllmEngine) -> None:
    events = await listen(vllm_engine, counting(3, 40))
    started, *deltas, finished = events
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    ids = ids_of(*deltas)
    assert len(ids) == finished.usage.completion_tokens
    text = await vllm_engine.detokenize(DetokenizeRequest(model="demo", token_ids=ids[:-1]))
    assert text == text_of(*deltas) == counted(3, 40)
    assert started.prompt_tokens == finished.usage.prompt_tokens


async def test_text_and_ids_as_prompt_say_the_same(vllm_engine: VllmEngine) -> None:
    prompt = "<|im_start|>user\ncount from 5 to 9<|im_end|>\n<|im_start|>assistant\n"
    sampling = {"temperature": 0.0, "max_tokens": 50}
    by_text = GenerateRequest.model_validate({"model": "demo", "prompt": prompt, "sampling": sampling})
    ids = (await vllm_engine.tokenize(TokenizeRequest(model="demo", prompt=prompt))).token_ids
    by_ids = GenerateRequest.model_validate({"model": "demo", "prompt_token_ids": ids, "sampling": sampling})
    assert (await ask(vllm_engine, by_text)).text == "5 6 7 8 9"
    assert (await ask(vllm_engine, by_ids)).text == "5 6 7 8 9"


async def test_tokenize_renders_what_generate_reads(vllm_engine: VllmEngine) -> None:
    request = counting(5, 9)
    tokenized = await vllm_engine.tokenize(TokenizeRequest(model="demo", messages=request.messages))
    completion = await ask(vllm_engine, request)
    assert len(tokenized.token_ids) == completion.usage.prompt_tokens
    assert tokenized.context_length == vllm_engine.capabilities.context_length == 4096
    assert tokenized.tokens is None


async def test_tokenize_returns_the_tokens_to_who_asks_for_them(vllm_engine: VllmEngine) -> None:
    request = TokenizeRequest(model="demo", prompt="the cat 12", return_tokens=True)
    tokenized = await vllm_engine.tokenize(request)
    assert tokenized.tokens is not None
    assert len(tokenized.tokens) == len(tokenized.token_ids) > 1
    for token_id, token in zip(tokenized.token_ids, tokenized.tokens, strict=True):
        text = await vllm_engine.detokenize(DetokenizeRequest(model="demo", token_ids=[token_id]))
        assert token.lstrip("\u0120") == text.lstrip()


async def test_detokenize_refuses_ids_out_of_the_vocabulary(vllm_engine: VllmEngine) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await vllm_engine.detokenize(DetokenizeRequest(model="demo", token_ids=[2**30]))
    assert refused.value.param == "token_ids"


async def test_choices(vllm_engine: VllmEngine) -> None:
    completion = await ask(vllm_engine, counting(5, 9, n=3))
    assert [choice.text for choice in completion.choices] == ["5 6 7 8 9"] * 3
    assert completion.usage.completion_tokens == sum(len(choice.token_ids) for choice in completion.choices)


async def test_seed_repeats_a_draw(vllm_engine: VllmEngine) -> None:
    request = chat("hello", sampling={"temperature": 2.0, "seed": 7, "max_tokens": 20, "ignore_eos": True})
    first, second = await answer(vllm_engine, request), await answer(vllm_engine, request)
    assert first.token_ids == second.token_ids


async def test_logprobs(vllm_engine: VllmEngine) -> None:
    choice = await answer(vllm_engine, counting(5, 9, logprobs=3))
    assert choice.logprobs is not None
    assert [logprob.token_id for logprob in choice.logprobs] == list(choice.token_ids)
    for logprob in choice.logprobs:
        assert logprob.logprob <= 0
        assert len(logprob.top) == 3
        assert logprob.top[0].token_id == logprob.token_id  # greedy
        assert [top.logprob for top in logprob.top] == sorted((top.logprob for top in logprob.top), reverse=True)
        assert logprob.utf8.decode() == logprob.token


async def test_logprobs_of_the_drawn_token_only(vllm_engine: VllmEngine) -> None:
    choice = await answer(vllm_engine, counting(5, 9, logprobs=0))
    assert choice.logprobs is not None
    assert all(logprob.top == () for logprob in choice.logprobs)


async def test_stop_string(vllm_engine: VllmEngine) -> None:
    choice = await answer(vllm_engine, counting(1, 50, stop=["12 13", "99"]))
    assert (choice.text, choice.reason, choice.stop_reason) == (counted(1, 11) + " ", "stop", "12 13")
    choice = await answer(vllm_engine, counting(1, 50, stop=["12 13"], include_stop_str_in_output=True))
    assert choice.text == counted(1, 13)


async def test_stop_token(vllm_engine: VllmEngine) -> None:
    (_, token) = (await vllm_engine.tokenize(TokenizeRequest(model="demo", prompt="7 8"))).token_ids[-2:]
    choice = await answer(vllm_engine, counting(1, 50, stop_token_ids=[token]))
    assert choice.stop_reason == token
    assert choice.token_ids[-1] == token


async def test_length(vllm_engine: VllmEngine) -> None:
    completion = await ask(vllm_engine, counting(1, 50, max_tokens=7))
    assert completion.choices[0].reason == "length"
    assert completion.usage.completion_tokens == 7


async def test_min_tokens_and_ignore_eos(vllm_engine: VllmEngine) -> None:
    completion = await ask(vllm_engine, counting(1, 2, min_tokens=20, max_tokens=30))
    assert completion.usage.completion_tokens >= 20
    completion = await ask(vllm_engine, counting(1, 2, ignore_eos=True, max_tokens=25))
    assert completion.usage.completion_tokens == 25


async def test_prefix_cache_is_counted(vllm_engine: VllmEngine) -> None:
    request = chat("repeat: " + "the cat and the dog " * 80, sampling={"max_tokens": 2})
    await ask(vllm_engine, request)
    usage = (await ask(vllm_engine, request)).usage
    assert 0 < usage.cached_tokens < usage.prompt_tokens


async def test_the_prefix_cache_is_each_tenants_own_but_within_a_group(vllm_engine: VllmEngine) -> None:
    def of(tenant: str, salt: str) -> GenerateRequest:
        share = TenantShare(name=tenant, cache_salt=salt)
        return chat("repeat: " + "the dog and a cat " * 80, sampling={"max_tokens": 2}, tenant=share)

    own, others, groups = [await ask(vllm_engine, of(*who)) for who in (("a", "x"), ("b", "y"), ("c", "x"))]
    assert own.usage.cached_tokens == others.usage.cached_tokens == 0 < groups.usage.cached_tokens
    assert own.choices[0].token_ids == others.choices[0].token_ids == groups.choices[0].token_ids


async def test_continues_the_final_message(vllm_engine: VllmEngine) -> None:
    messages = [{"role": "user", "content": "count from 3 to 9"}, {"role": "assistant", "content": "3 4 5"}]
    request = chat("", messages=messages, add_generation_prompt=False, continue_final_message=True)
    assert (await ask(vllm_engine, request)).text.strip() == "6 7 8 9"


async def test_prompt_over_the_context_is_refused(vllm_engine: VllmEngine) -> None:
    for request in (
        chat("the cat and the dog " * 2000),
        chat("the cat and the dog " * 200_000),  # refused by its length, before it is tokenized
    ):
        with pytest.raises(ContextOverflow) as refused:
            await ask(vllm_engine, request)
        assert refused.value.param == "messages"
        assert refused.value.context_length == 4096
    with pytest.raises(ContextOverflow) as refused:
        await ask(vllm_engine, GenerateRequest(model="demo", prompt_token_ids=[5] * 4096))
    assert refused.value.param == "prompt_token_ids"


async def test_answer_over_the_context_is_refused(vllm_engine: VllmEngine) -> None:
    with pytest.raises(ContextOverflow) as refused:
        await ask(vllm_engine, counting(1, 5, max_tokens=4096))
    assert refused.value.param == "sampling.max_tokens"
    assert refused.value.prompt_tokens is not None


async def test_unset_max_tokens_is_what_fits(vllm_engine: VllmEngine) -> None:
    prompt_tokens = 4096 - 25
    completion = await ask(
        vllm_engine,
        GenerateRequest.model_validate(
            {"model": "demo", "prompt_token_ids": [5] * prompt_tokens, "sampling": {"ignore_eos": True}}
        ),
    )
    assert completion.usage.completion_tokens == 25
    assert completion.choices[0].reason == "length"


async def test_wrong_fields_are_named(vllm_engine: VllmEngine) -> None:
    for sampling, param in (
        ({"logit_bias": {2**30: 1.0}}, "sampling.logit_bias"),
        ({"stop_token_ids": [2**30]}, "sampling.stop_token_ids"),
        ({"allowed_token_ids": [2**30]}, "sampling.allowed_token_ids"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            await ask(vllm_engine, counting(1, 5, **sampling))
        assert refused.value.param == param
    with pytest.raises(InvalidRequest) as refused:
        await ask(vllm_engine, GenerateRequest(model="demo", prompt_token_ids=[2**30]))
    assert refused.value.param == "prompt_token_ids"
    with pytest.raises(InvalidRequest) as refused:
        await ask(vllm_engine, GenerateRequest(model="demo", prompt=""))
    assert refused.value.param == "prompt"


async def test_requests_template_is_refused(vllm_engine: VllmEngine) -> None:
    with pytest.raises(InvalidRequest):
        await ask(vllm_engine, chat("hello", chat_template_kwargs={"chat_template": "{{ messages }}"}))
    with pytest.raises(InvalidRequest) as refused:
        await ask(vllm_engine, chat("hello", reasoning_effort="enormous"))
    assert refused.value.param == "reasoning_effort"


async def test_attachments_are_refused_by_a_model_that_reads_text(vllm_engine: VllmEngine) -> None:
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    with pytest.raises(Unsupported) as refused:
        await ask(vllm_engine, chat("", messages=[{"role": "user", "content": parts}]))
    assert refused.value.param == "messages[0].content[1]"


async def test_text_parts_are_read(vllm_engine: VllmEngine) -> None:
    parts = [{"type": "text", "text": "count from 3 to 6"}]
    assert (await ask(vllm_engine, chat("", messages=[{"role": "user", "content": parts}]))).text == "3 4 5 6"


async def test_load_is_seen(vllm_engine: VllmEngine) -> None:
    events = vllm_engine.generate(counting(1, 300), Context())
    async for event in events:
        if isinstance(event, TextDelta) and event.text.strip() == "20":
            break
    load = vllm_engine.load()
    assert load.running == 1
    assert 0 < load.kv_use < 1
    async for _ in events:
        pass
    assert vllm_engine.load() == Load()
