"""A small tokenizer: some words and numbers are one token each, everything else is bytes.

Any text survives `decode(encode(text))`, and no text encodes to a special token. Ids are the same in every process.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b


class Special:
    """The special tokens, right after the 256 bytes. Plain numbers, because they travel in events."""

    END = 256
    SYSTEM = 257
    USER = 258
    ASSISTANT = 259
    TOOL = 260
    THINK = 261
    END_THINK = 262
    TOOL_CALL = 263
    ARGUMENTS = 264
    END_TOOL_CALL = 265


_WORDS = (
    "a about above after again all also always an and answer any are as at back be because before began begin below "
    "best better between big bird black blue boat both bread bright bring brown build but by call calm came can "
    "carry change city clear cloud cold color come corn could count country cup dark day deep did do door down "
    "drink drop each early earth east eat egg end engine even evening every eye face fall far farm fast father feel "
    "few field find fire first fish five floor flow flower food for found four fresh friend from full garden gate "
    "gave get give glass go gold good grass gray great green ground grow had half hand happy hard has have he head "
    "hear heart heavy help her here high hill him his hold home horse hot hour house how hundred i ice if in iron "
    "is it its just keep kind king know lake land large last late leaf learn left less let letter life light like "
    "line little long look love low made make man many map may me mean milk mind moon more morning most mother "
    "mountain mouth move much music must my name near never new next night nine no north not now number of off "
    "often old on once one only open or other our out over own paper part path people pipe place plain plant play "
    "point pond power pure put quick quiet rain read red rest rice ring rise river road rock roof room root round "
    "run said salt same sand saw say school sea second see seed send seven shade ship short should show side silver "
    "simple sing six sky sleep slow small snow so soft some song soon sound south space spring stand star start "
    "stay steam step still stone stop storm story stream street strong such summer sun sure sweet table take tall "
    "tea tell ten than that the their them then there these they thing think this three through time to today told "
    "too top town tree true turbine turn two under until up upon us use valley very voice wait walk wall warm was "
    "wash water wave way we weather well went were west what wheat wheel when where which while white who why wide "
    "will wind window winter wise with wood word work world would write year yellow yes you young your"
)
WORDS = _WORDS.split()
NUMBERS = range(1000)

FIRST_WORD = 266
"""The ids from here on are words and numbers, whole characters each."""

_SPECIAL_TEXT = {
    Special.END: "<|end|>",
    Special.SYSTEM: "<|system|>",
    Special.USER: "<|user|>",
    Special.ASSISTANT: "<|assistant|>",
    Special.TOOL: "<|tool|>",
    Special.THINK: "<think>",
    Special.END_THINK: "</think>",
    Special.TOOL_CALL: "<tool_call>",
    Special.ARGUMENTS: "<|arguments|>",
    Special.END_TOOL_CALL: "</tool_call>",
}
_PIECES = [
    piece
    for word in (*WORDS, *map(str, NUMBERS))
    for piece in (word, f" {word}")
    if len(piece) > 1  # A single letter or digit is a byte already.
]
_ID_OF = {piece: FIRST_WORD + position for position, piece in enumerate(_PIECES)}
_SPLIT = re.compile(r" ?\d{1,3}| ?[a-z]+|.", re.DOTALL | re.ASCII)

BYTES_OF: list[bytes] = [
    *(bytes((byte,)) for byte in range(256)),
    *(_SPECIAL_TEXT[special].encode() for special in range(Special.END, FIRST_WORD)),
    *(piece.encode() for piece in _PIECES),
]
"""What each id stands for, by id."""

VOCABULARY_SIZE = len(BYTES_OF)
VOCABULARY = blake2b(b"\0".join(BYTES_OF), digest_size=8).hexdigest()
"""Its name, as in `Started`."""

SPOKEN = tuple(_ID_OF[f" {word}"] for word in WORDS)
"""The words with a space before them: what answers are made of."""


LONGEST = max(len(piece) for piece in BYTES_OF[FIRST_WORD:])
"""Characters of the longest token that text is made of."""

_CHUNK_CHARS = 16 * 1024


def encode(text: str) -> list[int]:
    """The token ids of a text."""
    ids: list[int] = []
    for piece in _pieces(text):
        known = _ID_OF.get(piece)
        if known is not None:
            ids.append(known)
        else:
            # A lone surrogate is no character and has no UTF-8.
            ids.extend(piece.encode("utf-8", "replace"))
    return ids


def _pieces(text: str) -> Iterator[str]:
    # One call for a text of millions would keep every other thread from running meanwhile.
    at, size = 0, _CHUNK_CHARS
    while at + size < len(text):
        pieces = _SPLIT.findall(text, at, at + size)
        # The last one may go on behind the border.
        at += size - len(pieces.pop())
        yield from pieces
        size = _CHUNK_CHARS if pieces else 2 * size
    yield from _SPLIT.findall(text, at)


def decode(token_ids: Iterable[int], *, skip_special: bool = False) -> str:
    """The text of token ids; bytes that are not UTF-8 become U+FFFD.

    Raises:
        IndexError: An id is not in the vocabulary.
    """
    if skip_special:
        token_ids = (token_id for token_id in token_ids if not is_special(token_id))
    return b"".join([BYTES_OF[token_id] for token_id in token_ids]).decode("utf-8", "replace")


def is_special(token_id: int) -> bool:
    """Whether it is a special token."""
    return Special.END <= token_id < FIRST_WORD
