"""Made-up scores: the more words a document has in common with its query, the better it fits."""

import math
import struct
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from engines.turns import Turns

Token = TypeVar("Token", bound=Hashable)

_STEEPNESS = 8.0


def score(query: Iterable[Token], document: Iterable[Token], use_activation: bool | None = None) -> float:
    """How well a document fits: a probability, or, with `use_activation` false, its logit."""
    asked, said = set(query), set(document)
    common = len(asked & said) / max(1, len(asked | said))
    logit = _STEEPNESS * (common - 0.5)
    return logit if use_activation is False else 1.0 / (1.0 + math.exp(-logit))


async def scores(pairs: Sequence[tuple[Iterable[Token], Iterable[Token]]], use_activation: bool | None) -> bytes:
    """The scores of all pairs, as 32-bit floats, little-endian; the event loop has a turn after each few."""
    values = []
    turns = Turns()
    for query, document in pairs:
        values.append(score(query, document, use_activation))
        await turns.pause()
    return struct.pack(f"<{len(values)}f", *values)
