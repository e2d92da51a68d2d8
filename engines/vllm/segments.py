"""Where a rendered prompt may be split, so that its segments tokenize to just what the whole does.

A tokenizer of the library `tokenizers` first looks for added tokens in the text as it is. What stands between them is
normalized, pre-tokenized and tokenized piece by piece, and no piece knows of the others. So a text may be split at an
added token that is found there whatever surrounds it: its text overlaps with that of no other added token, and it takes
no white space from before it. The segment begins with this token, and does not end with it: a piece at the very start
of a text may be treated differently (Metaspace with `prepend_scheme: first`), and so the token has to stand there.

What is not known to work like that is not split: Python tokenizers, Mistral's, subclasses that encode in a way of their
own, parts that are not in the lists here.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer
from transformers import TokenizersBackend

_NORMALIZERS = {
    "BertNormalizer",
    "ByteLevel",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Precompiled",
    "Prepend",
    "Replace",
    "Sequence",
    "Strip",
    "StripAccents",
}
_PRE_TOKENIZERS = {
    "BertPreTokenizer",
    "ByteLevel",
    "CharDelimiterSplit",
    "Digits",
    "FixedLength",
    "Metaspace",
    "Punctuation",
    "Sequence",
    "Split",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
}
_POST_PROCESSORS = {"BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"}
"""Without special tokens, which is how chats are tokenized, these change offsets at most."""
_MODELS = {"BPE", "Unigram", "WordLevel", "WordPiece"}
_RANDOM = ("dropout", "alpha", "nbest_size")
"""Parameters of models that draw among several ways to tokenize the same text."""
_ENCODING = ("__call__", "_encode_plus", "_convert_encoding")
_WRAPPERS = "vllm.tokenizers.hf"
"""VLLM's subclasses of any tokenizer: they lend one of several copies to each caller, and cache properties."""
_PROBES = (
    "",
    "a",
    " a",
    "a ",
    "  a  b  ",
    "\n",
    "\n\na\n",
    "\t",
    "7",
    "1234567",
    "é😀",
    "e\u0301",
    "\u3000",
    "<",
    "|>",
)
"""Texts between tokens, on which it is tried at boot whether the tokenizer does as said above."""


class Splitter:
    """Splits texts before each of these tokens.

    Args:
        tokens: Their ids by their texts; at least one.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._ids = dict(tokens)
        self._pattern = re.compile("|".join(map(re.escape, tokens)))
        self.token_ids = frozenset(tokens.values())

    def split(self, text: str) -> list[str]:
        """The segments of a text; together they are the text.

        All begin with one of the tokens, and have no other, but for the first one, which may begin with anything.
        """
        starts = [match.start() for match in self._pattern.finditer(text)]
        if starts[:1] != [0]:
            starts.insert(0, 0)
        return [text[start:end] for start, end in pairwise([*starts, len(text)])]

    def first_id(self, segment: str) -> int | None:
        """The id of the token that a segment begins with; None for a text's first one that begins with none."""
        match = self._pattern.match(segment)
        return None if match is None else self._ids[match.group()]


def splitter(tokenizer: Any, render: Callable[[], str]) -> Splitter | None:
    """Splits what a template renders where this tokenizer bears it; None where it bears it nowhere.

    Args:
        tokenizer: As vLLM loads it.
        render: Gives a short chat as the template renders it: texts are split at tokens that are in there.
    """
    if not _works_piecewise(tokenizer):
        return None
    rendered = render()
    # The others are looked for piece by piece, after normalization.
    added = {
        token_id: token
        for token_id, token in tokenizer.backend_tokenizer.get_added_tokens_decoder().items()
        if not token.normalized
    }
    if any(token.single_word for token in added.values()):
        return None  # Whether one is found depends on the character before it.
    texts = [token.content for token in added.values()]
    tokens = {
        token.content: token_id
        for token_id, token in added.items()
        if token.content in rendered and not token.lstrip and _stands_alone(token.content, texts)
    }
    if not tokens:
        return None
    made = Splitter(tokens)
    return made if all(_is_exact(tokenizer, text, made) for text in _probes(rendered, list(tokens))) else None


def _works_piecewise(tokenizer: Any) -> bool:
    if not isinstance(tokenizer, TokenizersBackend) or tokenizer.split_special_tokens:
        return False
    for owner in type(tokenizer).__mro__:
        if owner is TokenizersBackend:
            break
        if owner.__module__ != _WRAPPERS and any(name in vars(owner) for name in _ENCODING):
            return False
    backend = tokenizer.backend_tokenizer
    if type(backend) is not Tokenizer or type(backend.model).__name__ not in _MODELS:
        return False
    return not any(getattr(backend.model, name, None) for name in _RANDOM) and all(
        _is_made_of(part, known)
        for part, known in (
            (backend.normalizer, _NORMALIZERS),
            (backend.pre_tokenizer, _PRE_TOKENIZERS),
            (backend.post_processor, _POST_PROCESSORS),
        )
    )


def _is_made_of(part: Any, known: set[str]) -> bool:
    """Whether a part of a tokenizer, and every part of that, is one of the known ones."""
    if part is None:
        return True
    try:
        state = json.loads(part.__getstate__())
    except Exception:  # noqa: BLE001 - what the library raises for a part that is written in Python
        return False
    return all(one["type"] in known for one in _parts(state))


def _parts(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield state
    for name in ("normalizers", "pretokenizers", "processors"):
        for one in state.get(name, ()):
            yield from _parts(one)


def _stands_alone(token: str, texts: Iterable[str]) -> bool:
    """Whether no added token, of these texts, can take a character of this one, be it as the white space beside it."""
    return (
        not any(map(str.isspace, token))
        and not _meet(token, token)
        and not any(
            token in text or text in token or _meet(token, text) or _meet(text, token)
            for text in texts
            if text != token
        )
    )


def _meet(one: str, other: str) -> bool:
    """Whether the first may end with what the second begins with."""
    return any(one.endswith(other[:length]) for length in range(1, min(len(one), len(other))))


def _probes(rendered: str, tokens: Sequence[str]) -> Iterator[str]:
    yield rendered
    for probe in _PROBES:
        for token in tokens:
            yield f"{probe}{token}{probe}{token}{token}{probe}{probe}a{token}"


def _is_exact(tokenizer: Any, text: str, splitter: Splitter) -> bool:
    """Whether the text tokenizes to what its segments do, and each of these begins with its token."""
    segments = splitter.split(text)
    parts = [list(tokenizer(segment, add_special_tokens=False)["input_ids"]) for segment in segments]
    found = [[token_id for token_id in part if token_id in splitter.token_ids] for part in parts]
    wanted = [[] if (token_id := splitter.first_id(segment)) is None else [token_id] for segment in segments]
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(whole) == [token_id for part in parts for token_id in part] and found == wanted
