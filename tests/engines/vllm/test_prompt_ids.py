"""Ids of prompts that are put together from those of earlier ones, with real tokenizers of each kind, without vLLM."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="comes with vLLM")

from tokenizers import AddedToken, NormalizedString, PreTokenizedString, Tokenizer, decoders, trainers
from tokenizers import models as kinds
from tokenizers import normalizers as normalize
from tokenizers import pre_tokenizers as pre

from engines.demo.tokenizer import CHAT_TEMPLATE, CONTROL_TOKENS, build_tokenizer
from tests.lazily import lazily

prompt_ids = lazily("engines.vllm.prompt_ids")
segments = lazily("engines.vllm.segments")
transformers = lazily("transformers")

MIB = 2**20
START, END = "<|im_start|>", "<|im_end|>"
CORPUS = ["the river sang to the stone bridge, 12 times", "count from 3 to 7", "user system assistant\n\nnaïve café 😀"]
CHAT = [
    {"role": "user", "content": "count from 3 to 7"},
    {"role": "assistant", "content": "3 4 5 6 7"},
    {"role": "user", "content": "and back"},
]


def loaded(tokenizer: Tokenizer, **fields: Any) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, **fields)


def controlled(tokenizer: Tokenizer, **flags: Any) -> Any:
    """With the demo's control tokens, of these flags."""
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, **({"normalized": False} | flags)) for token in CONTROL_TOKENS]
    )
    return loaded(tokenizer)


def byte_level(add_prefix_space: bool = False) -> Tokenizer:
    made = Tokenizer(kinds.BPE())
    made.normalizer = normalize.NFC()
    made.pre_tokenizer = pre.ByteLevel(add_prefix_space=add_prefix_space)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return made


def metaspace(prepend_scheme: str) -> Tokenizer:
    """As SentencePiece does it: a space is put before the first word of a text, or of each piece."""
    made = Tokenizer(kinds.Unigram())
    made.normalizer = normalize.NFKC()
    made.pre_tokenizer = pre.Metaspace(prepend_scheme=prepend_scheme)
    trainer = trainers.UnigramTrainer(vocab_size=80, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return made


def prepending() -> Tokenizer:
    """As Llama 2 has it: spaces by the normalizer, and bytes for what is unknown."""
    spelled = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "he"]
    vocab = {piece: number for number, piece in enumerate(spelled)}
    made = Tokenizer(kinds.BPE(vocab, [("▁", "t"), ("h", "e")], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalize.Sequence([normalize.Prepend("▁"), normalize.Replace(" ", "▁")])
    return made


TOKENIZERS = {
    "demo": lambda: loaded(build_tokenizer()),
    "byte-level": lambda: controlled(byte_level()),
    "byte-level, space before each piece": lambda: controlled(byte_level(add_prefix_space=True)),
    "metaspace, first": lambda: controlled(metaspace("first")),
    "metaspace, always": lambda: controlled(metaspace("always")),
    "prepending": lambda: controlled(prepending()),
    "tokens that take the space behind them": lambda: controlled(metaspace("first"), rstrip=True),
}


def render(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def split(tokenizer: Any) -> Any:
    return segments.splitter(tokenizer, lambda: render(tokenizer, CHAT))


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


class Asked:
    """The ids of chats with one tokenizer, and what was tokenized for them."""

    def __init__(self, tokenizer: Any, max_bytes: int = MIB) -> None:
        made = split(tokenizer)
        assert made is not None
        self.tokenizer = tokenizer
        self.kept = prompt_ids.PromptIds(made, max_bytes)
        self.tokenized: list[str] = []

    def ids(self, text: str, salt: str = "", limit: int | None = None) -> list[int]:
        self.tokenized.clear()

        def tokenize(part: str) -> list[int]:
            self.tokenized.append(part)
            return encode(self.tokenizer, part)[:limit]

        return self.kept.ids(text, salt, tokenize, limit)


WIDE_END = END.translate({ord("<"): 0xFF1C, ord(">"): 0xFF1E})
"""What NFKC makes the token of."""
PIECES = st.sampled_from(
    [
        *(" ", "  ", "\n", "\t", "\u3000", "the river", " stone", "12345", "é", "e\u0301", "😀", "\u200d", "ﬁ", "▁"),
        *(START, END, f"{START}user\n", "<|im_", "end|>", "<|", ">", "<|endoftext|>", "<unk>", "</s>", WIDE_END),
        "<think>x</think>",
    ]
)
CONTENTS = st.lists(PIECES | st.text(max_size=4), max_size=6).map("".join)
MESSAGES = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "user", "assistant", "tool"]),
    CONTENTS,
)
CHATS = st.lists(MESSAGES, min_size=1, max_size=5)
Edit = Callable[[list[dict[str, str]]], list[dict[str, str]]]


def at(edit: Callable[[list[dict[str, str]], int], list[dict[str, str]]]) -> Callable[[int], Edit]:
    return lambda place: lambda chat: edit(chat, place % (len(chat) + 1))


EDITS = st.one_of(
    st.lists(MESSAGES, min_size=1, max_size=2).map(lambda more: lambda chat: [*chat, *more]),
    st.integers(0, 9).map(at(lambda chat, place: chat[:place] + chat[place + 1 :])),
    st.integers(0, 9).map(at(lambda chat, place: chat[place:])),
    CONTENTS.map(lambda text: lambda chat: [{"role": "system", "content": text}, *chat[1:]]),
    CONTENTS.map(lambda text: lambda chat: [*chat[:-1], {"role": "assistant", "content": f"<think>{text}</think>ok"}]),
    CONTENTS.map(lambda text: lambda chat: [one | {"content": one["content"] + text} for one in chat]),
)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_are_those_of_the_whole_text_whatever_was_rendered_before(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()

    @settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(CHATS, st.lists(EDITS, max_size=5), st.sampled_from([MIB, 4096]))
    def holds(chat: list[dict[str, str]], edits: list[Edit], max_bytes: int) -> None:
        asked = Asked(tokenizer, max_bytes)
        for edit in [list, *edits]:
            chat = edit(chat) or CHAT
            text = render(tokenizer, chat)
            assert asked.ids(text) == encode(tokenizer, text)
            assert asked.ids(text[1:]) == encode(tokenizer, text[1:])
            assert asked.kept.bytes <= max_bytes

    holds()


def test_of_a_next_turn_only_what_is_new_is_tokenized() -> None:
    asked = Asked(TOKENIZERS["demo"]())
    history = [*CHAT * 50]
    asked.ids(render(asked.tokenizer, history))
    history = [*history, {"role": "assistant", "content": "7 6 5"}, {"role": "user", "content": "thanks"}]
    asked.ids(render(asked.tokenizer, history))
    assert asked.tokenized == [f"{START}assistant\n7 6 5{END}\n{START}user\nthanks"]
    # Shortened at its beginning, as agents do with a history that is too long, it is known all the same.
    asked.ids(render(asked.tokenizer, history[20:]))
    assert asked.tokenized == []


def test_a_chat_of_which_only_little_is_known_is_tokenized_at_once() -> None:
    asked = Asked(TOKENIZERS["demo"]())
    asked.ids(render(asked.tokenizer, CHAT))
    asked.ids(render(asked.tokenizer, [{"role": "user", "content": f"count to {number}"} for number in range(500)]))
    assert len(asked.tokenized) == 1


def test_what_came_with_another_salt_is_not_known() -> None:
    asked = Asked(TOKENIZERS["demo"]())
    text = render(asked.tokenizer, CHAT)
    for salt in ("", "one", "other"):
        asked.ids(text, salt)
        assert asked.tokenized == [text], salt
    asked.ids(text, "one")
    assert asked.tokenized == []


def test_memory_is_bounded_and_what_is_used_stays() -> None:
    asked = Asked(TOKENIZERS["demo"](), 64 * 1024)
    used = render(asked.tokenizer, CHAT)
    for number in range(1000):
        asked.ids(render(asked.tokenizer, [{"role": "user", "content": f"count to {number} " * 20}]), str(number))
        asked.ids(used)
        assert asked.kept.bytes <= 64 * 1024
        assert not (asked.tokenized and number)
    assert asked.kept.bytes > 60 * 1024
    asked.ids(render(asked.tokenizer, [{"role": "user", "content": "river " * 64 * 1024}]))
    assert asked.kept.bytes <= 64 * 1024
    asked.ids(used)
    assert asked.tokenized == []


def test_ids_that_were_cut_are_not_taken_for_all() -> None:
    asked = Asked(TOKENIZERS["demo"]())
    text = render(asked.tokenizer, CHAT)
    whole = encode(asked.tokenizer, text)
    assert asked.ids(text, limit=10) == whole[:10]
    assert asked.ids(text) == whole
    assert asked.ids(text, limit=10) == whole[:10]


def test_an_id_that_the_model_makes_of_other_text_is_not_taken_for_the_token() -> None:
    words = {"<unk>": 0, START: 1, END: 2, "user\n": 3, "assistant\n": 4, "\n": 5}
    made = Tokenizer(kinds.WordLevel(words, unk_token="<unk>"))
    made.normalizer = normalize.NFKC()
    asked = Asked(controlled(made))
    text = f"{START}{WIDE_END}{END}"
    for _ in range(2):
        assert asked.ids(text) == [1, 2, 2]
        assert asked.tokenized == [text]
    assert asked.kept.bytes == 0


class OwnPieces:
    def split(self, number: int, piece: NormalizedString) -> list[NormalizedString]:
        return [piece] if number else [piece.prepend("▁")]

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        text.split(self.split)


def with_token(token: AddedToken) -> Any:
    made = byte_level()
    made.add_tokens([token])
    return controlled(made)


def with_own_pieces() -> Any:
    made = controlled(metaspace("never"))
    made.backend_tokenizer.pre_tokenizer = pre.PreTokenizer.custom(OwnPieces())
    return made


def at_random() -> Any:
    made = byte_level()
    made.model.dropout = 0.5
    return controlled(made)


def in_own_way() -> Any:
    class OwnWay(transformers.PreTrainedTokenizerFast):  # type: ignore[name-defined]
        def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> Any:
            return super()._encode_plus(f"{text} ", *args, **kwargs)

    made = byte_level()
    made.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL_TOKENS])
    return OwnWay(tokenizer_object=made, chat_template=CHAT_TEMPLATE)


@pytest.mark.parametrize(
    "made",
    [
        lambda: controlled(byte_level(), lstrip=True),
        lambda: controlled(byte_level(), normalized=True),
        lambda: controlled(byte_level(), single_word=True),
        lambda: with_token(AddedToken("yes", single_word=True, normalized=False)),
        lambda: with_token(AddedToken("|", normalized=False)),
        lambda: with_token(AddedToken(">\n", normalized=False)),
        with_own_pieces,
        at_random,
        in_own_way,
        lambda: loaded(build_tokenizer(), split_special_tokens=True),
        lambda: object(),
    ],
    ids=[
        "tokens take the space before them",
        "tokens are normalized",
        "tokens are words",
        "another token is a word",
        "another token is inside of them",
        "another token overlaps with each",
        "pieces are made in Python",
        "random",
        "a way of its own",
        "control tokens in texts are none",
        "no tokenizer of the library",
    ],
)
def test_no_text_is_split_where_that_might_change_its_ids(made: Callable[[], Any]) -> None:
    assert segments.splitter(made(), lambda: f"{START}user\nhi{END}\n{START}assistant\n") is None


def test_a_token_that_another_may_take_a_part_of_is_not_split_at() -> None:
    tokenizer = with_token(AddedToken(f"{END}\n", normalized=False))
    made = split(tokenizer)
    assert made is not None
    assert made.split(f"{END}{START}{END}\n{START}") == [END, f"{START}{END}\n", START]


def test_no_text_is_split_where_the_template_renders_none_of_the_tokens() -> None:
    assert segments.splitter(TOKENIZERS["demo"](), lambda: "") is None
