"""Made-up outputs of a pooling model: of each input or of each of its tokens, a vector or probabilities of classes."""

import math
import struct
from collections.abc import Sequence

from engines.pooling_requests import Pooled, PoolingRequest, PoolingTask, check_pooled_size, is_per_token
from engines.simulated.embedding import embedding
from engines.turns import Turns

CLASSES = 3
"""That the simulated model tells apart."""


def check_pooled(request: PoolingRequest, inputs: Sequence[Sequence[int]], size: int) -> None:
    """Lets a request pass whose answer is not too large.

    Args:
        request: What is asked for.
        inputs: The token ids of its inputs.
        size: Floats of a vector.

    Raises:
        InvalidRequest: It would be.
    """
    task = request.task or "embed"
    rows = sum(map(len, inputs)) if is_per_token(task) else len(inputs)
    check_pooled_size(rows, _columns(task, size))


async def pooled(
    request: PoolingRequest, inputs: Sequence[Sequence[int]], size: int, prompt_tokens: int, engine: str
) -> Pooled:
    """What the simulated model pools; the event loop has a turn after each few rows."""
    task = request.task or "embed"
    made = []
    turns = Turns()
    for token_ids in inputs:
        for position in range(len(token_ids)) if is_per_token(task) else (None,):
            ids = token_ids if position is None else token_ids[position : position + 1]
            made.append(_row(ids, task, size, request.use_activation))
            await turns.pause()
    rows = [len(token_ids) if is_per_token(task) else 1 for token_ids in inputs]
    return Pooled(
        values=b"".join(made),
        columns=_columns(task, size),
        rows=rows,
        per_token=is_per_token(task),
        prompt_tokens=prompt_tokens,
        engine=engine,
    )


def _columns(task: PoolingTask, size: int) -> int:
    return size if task in ("embed", "token_embed") else CLASSES


def _row(token_ids: Sequence[int], task: PoolingTask, size: int, use_activation: bool | None) -> bytes:
    """A unit vector, or probabilities that add up to one; twice the vector, or logits, without the activation."""
    columns = _columns(task, size)
    vector = embedding(token_ids, columns)
    is_vector = task in ("embed", "token_embed")
    if is_vector and use_activation is not False:
        return vector
    values = [2.0 * value for value in struct.unpack(f"<{columns}f", vector)]
    if not is_vector and use_activation is not False:
        whole = sum(map(math.exp, values))
        values = [math.exp(value) / whole for value in values]
    return struct.pack(f"<{columns}f", *values)
