"""Made-up embeddings: the same tokens give the same unit vector everywhere."""

import hashlib
import math
import struct
from collections.abc import Sequence


def embedding(token_ids: Sequence[int], size: int) -> list[float]:
    """A unit vector of `size` floats that depends on the token ids alone.

    The first components do not depend on `size`, as in a model whose vectors may be cut short: a shorter vector is the
    longer one cut and scaled to length 1.
    """
    words = struct.pack(f"<{len(token_ids)}I", *token_ids)
    stream = hashlib.shake_256(words).digest(4 * size)
    # Into (-1, 1), never 0: a vector of zeros has no direction.
    raw = [(2 * word + 1) / 2**32 - 1.0 for (word,) in struct.iter_unpack("<I", stream)]
    length = math.sqrt(sum(value * value for value in raw))
    return [value / length for value in raw]
