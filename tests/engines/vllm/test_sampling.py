"""Requests in vLLM's words, without an engine."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import ContextOverflow
from engines.requests import Guided, Sampling
from tests.lazily import lazily, needs

needs("vllm", "its words are what this is about")

sampling = lazily("engines.vllm.sampling")


def mapper(context_length: int = 100, generation_config: str = "auto", **defaults: Any) -> Any:
    return sampling.SamplingMapper(
        SimpleNamespace(
            max_model_len=context_length,
            generation_config=generation_config,
            override_generation_config={},
            get_diff_sampling_param=lambda: defaults,
        )
    )


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.1, 1),
    top_k=st.none() | st.integers(1, 100),
    min_p=st.none() | st.floats(0, 1),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    repetition_penalty=st.none() | st.floats(0.1, 2),
    seed=st.none() | st.integers(0, 2**31),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3),
    stop_token_ids=st.lists(st.integers(0, 50), max_size=3),
    logprobs=st.none() | st.integers(0, 20),
    logit_bias=st.dictionaries(st.integers(0, 50), st.floats(-100, 100), max_size=3),
    min_tokens=st.integers(0, 5),
    ignore_eos=st.booleans(),
    n=st.just(1),
)


@given(SAMPLINGS)
def test_what_the_request_says_holds(asked: Sampling) -> None:
    params = mapper(temperature=0.5, top_p=0.9, stop_token_ids=[99]).params(asked, 10)
    # vLLM raises tiny temperatures to one that computes, and greedy decoding ignores the rest.
    greedy = asked.temperature is not None and asked.temperature < 0.01
    if not greedy:
        assert params.temperature == (0.5 if asked.temperature is None else asked.temperature)
        assert params.top_p == (0.9 if asked.top_p is None else asked.top_p)
        assert params.top_k == (0 if asked.top_k is None else asked.top_k)
        assert params.min_p == (0.0 if asked.min_p is None else asked.min_p)
    assert params.repetition_penalty == (1.0 if asked.repetition_penalty is None else asked.repetition_penalty)
    for name in ("presence_penalty", "frequency_penalty", "seed", "stop", "logprobs", "min_tokens", "ignore_eos"):
        assert getattr(params, name) == getattr(asked, name)
    assert set(params.stop_token_ids) == {99, *asked.stop_token_ids}
    assert (params.logit_bias or {}) == asked.logit_bias
    assert params.max_tokens == 10


@given(st.integers(1, 200), st.none() | st.integers(1, 200))
def test_answer_fits_or_is_refused(prompt_tokens: int, max_tokens: int | None) -> None:
    asked = Sampling(max_tokens=max_tokens)
    try:
        given_tokens = mapper().max_tokens(asked, prompt_tokens, prompt="messages")
    except ContextOverflow as refused:
        assert prompt_tokens + (max_tokens or 1) > 100
        assert refused.param == ("messages" if prompt_tokens >= 100 else "sampling.max_tokens")
        assert (refused.prompt_tokens, refused.context_length) == (prompt_tokens, 100)
    else:
        assert given_tokens == (max_tokens or 100 - prompt_tokens)


def test_models_own_limit_holds_where_the_request_has_none() -> None:
    assert mapper(max_tokens=7).max_tokens(Sampling(), 10, prompt="prompt") == 7
    assert mapper(max_tokens=7).max_tokens(Sampling(max_tokens=20), 10, prompt="prompt") == 20


def test_limit_of_the_operators_generation_config_holds_always() -> None:
    limited = mapper(generation_config="/etc/generation", max_tokens=7)
    assert limited.max_tokens(Sampling(max_tokens=20), 10, prompt="prompt") == 7


@pytest.mark.parametrize(
    ("guided", "name"),
    [
        ({"json_schema": {"type": "object"}}, "json"),
        ({"json_object": True}, "json_object"),
        ({"regex": "a"}, "regex"),
        ({"choice": ["a"]}, "choice"),
        ({"grammar": "g"}, "grammar"),
        ({"structural_tag": "{}"}, "structural_tag"),
    ],
)
def test_guided(guided: dict[str, Any], name: str) -> None:
    constraint = Guided(**guided)
    (value,) = guided.values()
    assert getattr(sampling.structured_outputs(constraint), name) == value
    assert sampling.guided_field(constraint) == f"sampling.guided.{next(iter(guided))}"


def test_a_limit_that_does_not_fit_is_an_error_or_what_fits() -> None:
    with pytest.raises(ContextOverflow, match="Ask for at most 30"):
        mapper(100).max_tokens(Sampling(max_tokens=31), 70, prompt="prompt")
    for wanted, limit in ((31, 30), (30, 30), (7, 7)):
        clipped = Sampling(max_tokens=wanted, clip_max_tokens=True)
        assert mapper(100).max_tokens(clipped, 70, prompt="prompt") == limit
