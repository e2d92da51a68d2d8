"""The demo model's tokenizer: bytes, the numbers to 999 and the words of the demo language.

A known word or number is one token, together with the space before it if there is one; line
breaks and punctuation marks are tokens of their own. Another word is spelled by bytes and by
pairs of letters. There is no unknown token, so every UTF-8 text round-trips.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from engines.demo import language, lexicon

END_OF_TEXT: Final = "<|endoftext|>"
IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
CONTROL_TOKENS: Final = (END_OF_TEXT, IM_START, IM_END)
"""Tokens that never appear in an answer's text."""

MARKUP_TOKENS: Final = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tools>",
    "</tools>",
)
"""Tokens that parsers read in the answer's text, so they are not skipped as special."""

CHAT_TEMPLATE: Final[str] = (Path(__file__).parent / "chat_template.jinja").read_text("utf-8")

MAX_NUMBER: Final = 999

MAX_LENGTH: Final = 4096
"""Longest sequence, prompt and answer, in tokens."""

MAX_FEATURES: Final = 4

_PIECE: Final = r" ?\d{1,3}| ?\p{L}+|[^\d\p{L}]"
_SPACE: Final = "\u0120"
"""How the byte-level alphabet writes a space."""


def build_tokenizer() -> Tokenizer:
    """Builds the tokenizer. The same source always gives the same token ids."""
    vocabulary: dict[str, int] = {}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[character] = len(vocabulary)
    for pair in lexicon.DIGRAPHS:
        vocabulary.setdefault(pair, len(vocabulary))
    for piece in [*map(str, range(MAX_NUMBER + 1)), *_words(language.fixed_texts())]:
        vocabulary.setdefault(piece, len(vocabulary))
        vocabulary.setdefault(_SPACE + piece, len(vocabulary))
    tokenizer = Tokenizer(
        # A piece that is in the vocabulary is one token whatever the merges say; the merges
        # only spell the pieces that are not.
        BPE(
            vocab=vocabulary,
            merges=[(pair[0], pair[1]) for pair in lexicon.DIGRAPHS],
            ignore_merges=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS]
        + [AddedToken(token, special=False, normalized=False) for token in MARKUP_TOKENS]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token.

    Raises:
        KeyError: If the token is not in the vocabulary.
    """
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(token)
    return found


def shared_features(tokenizer: Tokenizer) -> list[list[int]]:
    """What tokens have in common, for the start of their embeddings.

    All forms of a word (with a space before it, with a capital) share a feature, and so do all
    numbers with the same digit in the same place.

    Returns:
        For each token id the ids of its features, at most ``MAX_FEATURES``, from 0 without gaps.
    """
    features: list[list[int]] = [[] for _ in range(tokenizer.get_vocab_size())]
    known: dict[str, int] = {}

    def add(token: int, name: str) -> None:
        features[token].append(known.setdefault(name, len(known)))

    for piece, token in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        bare = piece.removeprefix(_SPACE)
        if bare.isdecimal() and bare.isascii():
            for place in range(3):
                add(token, f"{place}:{int(bare) // 10**place % 10}")
        elif len(bare) > 2 and bare.isalpha() and bare.isascii():
            add(token, bare.lower())
            if not bare.islower():
                add(token, "capital")
        else:
            continue
        if bare != piece:
            add(token, "space")
    return features


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Args:
        tokenizer: What ``build_tokenizer`` returned.
        directory: An existing directory; files of the same names are replaced.
    """
    tokenizer.save(str(directory / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "additional_special_tokens": [IM_START],
    }
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _words(texts: Iterable[str]) -> list[str]:
    """All ASCII words of the texts, each also capitalized, in a stable order."""
    found = {word for text in texts for word in re.findall(r"[A-Za-z]{2,}", text)}
    # Names and cities stay out: tests want content that spans several tokens.
    spelled = {part for name in lexicon.CITIES + lexicon.NAMES for part in name.split()}
    return sorted(found - spelled)
