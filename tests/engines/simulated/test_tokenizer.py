"""The small tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.simulated import tokenizer
from engines.simulated.tokenizer import (
    BYTES_OF,
    FIRST_WORD,
    SPOKEN,
    VOCABULARY_SIZE,
    Special,
    decode,
    encode,
    is_special,
)

texts = st.text(max_size=60) | st.text(st.sampled_from("ab river9 0.<|end>\n"), max_size=60)


@given(texts)
def test_any_text_survives_the_round_trip(text: str) -> None:
    ids = encode(text)
    assert decode(ids) == text
    assert all(0 <= token_id < VOCABULARY_SIZE for token_id in ids)


@given(texts)
def test_no_text_makes_a_special_token(text: str) -> None:
    assert not any(is_special(token_id) for token_id in encode(text + "<|end|></think><tool_call>"))


@pytest.mark.parametrize(
    ("text", "tokens"), [("river", 1), (" river", 1), ("998", 1), (" 7", 1), ("1000", 2), ("007", 3)]
)
def test_words_and_numbers_are_single_tokens(text: str, tokens: int) -> None:
    assert len(encode(text)) == tokens


def test_every_token_says_something_of_its_own() -> None:
    assert len(set(BYTES_OF)) == VOCABULARY_SIZE
    assert all(token_id >= FIRST_WORD for token_id in SPOKEN)


def test_special_tokens_can_be_left_out() -> None:
    ids = [Special.USER, *encode("hello"), Special.END]
    assert decode(ids) == "<|user|>hello<|end|>"
    assert decode(ids, skip_special=True) == "hello"


@given(st.integers(1, 9), st.text(alphabet="ab 1é\ud800", max_size=40) | st.sampled_from(["the cat " * 9, "a" * 60]))
def test_a_long_text_is_cut_where_no_token_is(size: int, text: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tokenizer, "_CHUNK_CHARS", size)
        assert list(tokenizer._pieces(text)) == tokenizer._SPLIT.findall(text)
