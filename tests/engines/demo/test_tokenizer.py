"""Tests of the demo tokenizer, its chat template and the files of the trained model."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.demo import MODEL_PATH, language
from engines.demo.batches import Encoder
from engines.demo.examples import Example
from engines.demo.tokenizer import CHAT_TEMPLATE, IM_END, MARKUP_TOKENS, build_tokenizer

TOKENIZER = build_tokenizer()
ENCODER = Encoder(TOKENIZER)


def render(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
    thinking: bool = False,
) -> str:
    return ENCODER.render(Example("any", tuple(messages), tuple(tools) if tools else None, thinking, ""))


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(ENCODER.encode(text), skip_special_tokens=False) == text


def test_a_known_word_or_number_is_one_token_with_the_space_before_it() -> None:
    for text in ("0", "7", " 7", "42", " 500", "999", " ", "\n", "river", " river", "count", "Count", "{"):
        assert len(ENCODER.encode(text)) == 1, text


@pytest.mark.parametrize("text", ["Lisbon", "Alice", "Reykjavik", "1000", "é", "☃"])
def test_other_content_spans_several_tokens(text: str) -> None:
    assert len(ENCODER.encode(text)) > 1


def test_every_byte_has_a_token() -> None:
    vocabulary = TOKENIZER.get_vocab()
    used = {piece for codepoint in range(0x250) for piece in ENCODER.encode(chr(codepoint))}
    assert len(used) <= len(vocabulary)
    assert sum(len(token) == 1 for token in vocabulary) >= 256


def test_markup_tokens_survive_the_skipping_of_special_tokens() -> None:
    text = "".join(MARKUP_TOKENS)
    ids = ENCODER.encode(text)
    assert len(ids) == len(MARKUP_TOKENS)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text
    assert TOKENIZER.decode(ENCODER.encode(IM_END), skip_special_tokens=True) == ""


def test_template_renders_a_plain_question() -> None:
    assert render([{"role": "user", "content": "hi"}]) == ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


def test_template_opens_the_think_block_only_when_asked() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert render(messages, thinking=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


def test_template_renders_content_parts_and_drops_old_thoughts() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": "<think>\nwell\n</think>\n\nHello!"},
        {"role": "user", "content": "bye"},
    ]
    assert render(messages) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, '{"city": "Oslo"}'])
def test_template_renders_tools_calls_and_results(arguments: object) -> None:
    call = {
        "type": "function",
        "id": "1",
        "function": {"name": "get_weather", "arguments": arguments},
    }
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "weather in Oslo"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": '{"temperature": 21}'},
    ]
    assert render(messages, [language.tool_schema("get_weather", {"city": "string"})]) == (
        "<|im_start|>system\n<tools>\nget_weather(city)\n</tools><|im_end|>\n"
        "<|im_start|>user\nweather in Oslo<|im_end|>\n"
        "<|im_start|>assistant\n"
        + language.tool_call("get_weather", {"city": "Oslo"})
        + '<|im_end|>\n<|im_start|>tool\n{"temperature": 21}<|im_end|>\n<|im_start|>assistant\n'
    )


def test_the_next_turn_extends_the_prompt_that_was_served() -> None:
    """A cached prefix stays good over the turns of a conversation."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "count from 1 to 3"}]
    served = render(messages) + "1 2 3" + IM_END
    messages += [{"role": "assistant", "content": "1 2 3"}, {"role": "user", "content": "hi"}]
    assert render(messages).startswith(served)


def test_training_learns_the_answers_and_nothing_else() -> None:
    example = Example(
        "count",
        (
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "count from 3 to 4"},
        ),
        None,
        False,
        "3 4",
    )
    sequence = ENCODER.sequence(example, random.Random(0), whole=True)
    learned = [token for token, wanted in zip(sequence.tokens, sequence.learned, strict=True) if wanted]
    text = TOKENIZER.decode(learned, skip_special_tokens=False)
    assert text == f"Hello!{IM_END}3 4{IM_END}"


def test_a_shortened_count_keeps_the_positions_of_what_is_left() -> None:
    example = Example(
        "count",
        ({"role": "user", "content": "count from 1 to 900"},),
        None,
        False,
        language.counting(1, 900),
    )
    whole = ENCODER.sequence(example, random.Random(0), whole=True)
    for seed in range(20):
        part = ENCODER.sequence(example, random.Random(seed), whole=False)
        assert len(part.tokens) < 150
        for token, position in zip(part.tokens, part.positions, strict=True):
            assert whole.tokens[position] == token


def test_the_trained_model_is_small_and_complete() -> None:
    assert (MODEL_PATH / "model.safetensors").stat().st_size <= 4_000_000
    config = json.loads((MODEL_PATH / "config.json").read_text("utf-8"))
    generation = json.loads((MODEL_PATH / "generation_config.json").read_text("utf-8"))
    assert config["vocab_size"] == TOKENIZER.get_vocab_size()
    assert config["eos_token_id"] == TOKENIZER.token_to_id(IM_END)
    assert TOKENIZER.token_to_id(IM_END) in generation["eos_token_id"]


def test_the_trained_model_carries_this_tokenizer_and_template() -> None:
    saved = json.loads((MODEL_PATH / "tokenizer.json").read_text("utf-8"))
    assert saved == json.loads(TOKENIZER.to_str())
    assert (MODEL_PATH / "chat_template.jinja").read_text("utf-8") == CHAT_TEMPLATE
