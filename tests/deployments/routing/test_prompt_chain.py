from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.routing.prompt_chain import (
    CHUNK_IDS,
    MAX_IDS,
    MAX_MESSAGES,
    ChainHasher,
    PromptChain,
)
from engines.attachments.attachment import Attachment
from engines.call_requests import EmbedRequest, TokenizeRequest
from engines.prefix_chunks import CHUNK_BYTES, LEAST_BYTES, MAX_BYTES
from engines.requests import GenerateRequest

HASHER = ChainHasher("m", lambda: b"key")
LONG = "A conversation begins with what the model is to be, at some length. " * 60
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}

texts = st.text(st.characters(codec=None), max_size=30).flatmap(
    lambda text: st.integers(1, 120).map(lambda times: text * times)
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}),
    min_size=1,
    max_size=8,
)


def chain(**fields: Any) -> PromptChain:
    return HASHER.chain(GenerateRequest(**{"model": "m", **fields}))


def chat(text: str, **fields: Any) -> PromptChain:
    return chain(messages=[{"role": "user", "content": text}], **fields)


def common(one: PromptChain, other: PromptChain) -> int:
    pairs = zip(one.prefixes, other.prefixes, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one.prefixes), len(other.prefixes)))


@given(before=messages, after=messages)
def test_the_next_turn_of_a_conversation_begins_as_the_last_one(before: Any, after: Any) -> None:
    turn, next_turn = chain(messages=before), chain(messages=before + after)
    # Its last chunk may be too short to stand by itself.
    shared = common(turn, next_turn)
    assert shared >= len(turn.prefixes) - 1
    assert turn.tokens - ([0, *turn.ends][shared]) <= LEAST_BYTES
    assert len(next_turn.prefixes) == len(next_turn.ends)
    assert next_turn.ends == sorted(next_turn.ends) and next_turn.ends[-1:] <= [next_turn.tokens]


@given(ids=st.lists(st.integers(0, 9), min_size=1, max_size=900), more=st.lists(st.integers(0, 9), max_size=900))
def test_ids_that_begin_alike_share_their_whole_chunks(ids: list[int], more: list[int]) -> None:
    one, other = chain(prompt_token_ids=ids), chain(prompt_token_ids=ids + more)
    assert common(one, other) >= len(ids) // CHUNK_IDS
    assert (one.tokens, one.ends[-1], one.is_text) == (len(ids), len(ids), False)


@pytest.mark.parametrize(
    "other",
    [
        {"adapter": "sql"},
        {"tenant": {"name": "t", "cache_salt": "salt"}},
        {"tools": [TOOL]},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"thinking": {"enabled": True}},
        {"reasoning_effort": "high"},
    ],
)
def test_what_holds_for_all_of_a_prompt_is_in_every_hash(other: dict[str, Any]) -> None:
    assert not set(chat(LONG).prefixes) & set(chat(LONG, **other).prefixes)


def test_another_model_or_key_has_other_chains() -> None:
    request = GenerateRequest(model="m", prompt=LONG)
    chains = [
        ChainHasher(model, lambda key=key: key).chain(request).prefixes
        for model, key in (("m", b"k"), ("n", b"k"), ("m", b"l"))
    ]
    assert len(set().union(*chains)) == 3 * len(chains[0])


def test_a_role_a_call_and_what_a_tool_said_are_part_of_a_message() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    said: list[dict[str, Any]] = [
        {"role": "user", "content": LONG},
        {"role": "assistant", "content": LONG},
        {"role": "assistant", "content": LONG, "tool_calls": [call]},
        {"role": "tool", "content": LONG, "tool_call_id": "1"},
        {"role": "assistant", "content": LONG, "reasoning_content": "because"},
        {"role": "user", "content": [{"type": "text", "text": LONG}]},
        {"role": "user", "content": LONG, "date": "today"},
    ]
    firsts = {chain(messages=[message]).prefixes[-1] for message in said}
    assert len(firsts) == len(said)


def test_a_text_is_cut_and_its_tokens_are_reckoned() -> None:
    one = chain(prompt="x" * (3 * CHUNK_BYTES + 5))
    assert one.ends == [256, 512, 768, 770]
    assert (one.tokens, one.is_text) == (770, True)
    assert len(set(one.prefixes)) == 4


def test_half_a_surrogate_pair_is_hashed() -> None:
    assert chat("\ud800" * 200).prefixes
    assert chain(prompt="\ud800").prefixes
    assert chain(messages=[{"role": "user", "content": "\ud800", "name": "\ud800"}]).prefixes


def test_images_are_known_by_their_digests_and_end_the_chain_without() -> None:
    def seen(data: bytes, digest: str) -> PromptChain:
        parts = [{"type": "text", "text": LONG}, {"type": "image_url", "image_url": {"url": ""}}]
        before = {"role": "system", "content": LONG}
        attachment = Attachment("image/png", data, known_digest=digest)
        return chain(messages=[before, {"role": "user", "content": parts}], attachments=[attachment])

    assert common(seen(b"a", "1"), seen(b"a", "1")) == len(seen(b"a", "1").prefixes)
    assert common(seen(b"a", "1"), seen(b"b", "2")) < len(seen(b"a", "1").prefixes)
    unknown = seen(b"a", "")
    assert 0 < len(unknown.prefixes) == common(unknown, seen(b"a", "1")) < len(seen(b"a", "1").prefixes)


def test_what_is_hashed_has_a_limit_and_the_rest_is_counted() -> None:
    text, extra = "x" * MAX_BYTES, 40_000
    for one in (chain(prompt=text + "y" * extra), chat(text + "y" * extra)):
        assert len(one.prefixes) == MAX_BYTES // CHUNK_BYTES
        assert one.tokens >= (MAX_BYTES + extra) // 4
    ids = chain(prompt_token_ids=[1] * (MAX_IDS + 5))
    assert (len(ids.prefixes), ids.tokens) == (MAX_IDS // CHUNK_IDS, MAX_IDS + 5)
    many = chain(messages=[{"role": "user", "content": "hello"}] * (MAX_MESSAGES + 500))
    fewer = chain(messages=[{"role": "user", "content": "hello"}] * MAX_MESSAGES)
    assert many.prefixes == fewer.prefixes
    assert many.tokens > fewer.tokens


def test_what_does_not_generate_has_a_size_and_no_chain() -> None:
    embed = HASHER.chain(EmbedRequest(model="m", inputs=["x" * 400]))
    assert (embed.prefixes, embed.tokens) == ([], 100)
    assert HASHER.chain(TokenizeRequest(model="m", prompt="x" * 400)).tokens == 0
