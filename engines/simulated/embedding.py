"""Made-up embeddings: the same tokens give the same unit vector everywhere."""

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence

from engines.turns import Turns


def embedding(token_ids: Sequence[int], size: int) -> bytes:
    """A unit vector of `size` 32-bit floats, little-endian, that depends on the token ids alone.

    The first components do not depend on `size`, as in a model whose vectors may be cut short: a shorter vector is the
    longer one cut and scaled to length 1.
    """
    words = struct.pack(f"<{len(token_ids)}I", *token_ids)
    stream = hashlib.shake_256(words).digest(4 * size)
    # Into (-1, 1), never 0: a vector of zeros has no direction.
    raw = [(2 * word + 1) / 2**32 - 1.0 for (word,) in struct.iter_unpack("<I", stream)]
    length = math.sqrt(sum(value * value for value in raw))
    return struct.pack(f"<{size}f", *[value / length for value in raw])


async def embeddings(inputs: Iterable[Sequence[int]], size: int) -> bytes:
    """The vectors of all the inputs, one after another; the event loop has a turn after each few."""
    vectors = []
    turns = Turns()
    for token_ids in inputs:
        vectors.append(embedding(token_ids, size))
        await turns.pause()
    return b"".join(vectors)
