"""Scores and pooling, which vLLM's server adds to OpenAI's API: requests as bodies, answers as ours."""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from engines.call_requests import FLOAT_BYTES
from engines.errors import EngineFailed
from engines.pooling_requests import Pooled, PoolingRequest, ScoreRequest, Scores, check_pooled_size
from engines.remote.json_fields import as_count, as_dict, as_list


def score_body(request: ScoreRequest, model: str) -> dict[str, Any]:
    """The body for `/score`."""
    body: dict[str, Any] = {"model": model, "queries": request.queries, "documents": request.documents}
    for name in ("truncate_prompt_tokens", "truncation_side", "use_activation", "instruction"):
        if getattr(request, name) is not None:
            body[name] = getattr(request, name)
    for name in ("max_tokens_per_query", "max_tokens_per_doc"):
        if getattr(request, name):
            body[name] = getattr(request, name)
    return body


def scores(answer: Any, request: ScoreRequest, engine: str) -> Scores:
    """The scores in an answer of `/score`.

    Raises:
        EngineFailed: They are not those that were asked for.
    """
    by_index = {as_count(entry.get("index")): entry.get("score") for entry in _entries(answer)}
    values = [by_index.get(index) for index in range(len(request.documents))]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise EngineFailed(f"The server behind {engine} did not give one score per document.", instance=engine)
    try:
        packed = struct.pack(f"<{len(values)}f", *values)
    except (struct.error, OverflowError):
        raise EngineFailed(f"The server behind {engine} gave scores that are no floats.", instance=engine) from None
    return Scores(values=packed, prompt_tokens=_prompt_tokens(answer), engine=engine)


def pooling_body(request: PoolingRequest, model: str) -> dict[str, Any]:
    """The body for `/pooling`. Numbers are asked for as such: base64 does not say how many a row has."""
    body: dict[str, Any] = {"model": model, "input": request.inputs, "encoding_format": "float"}
    for name in ("task", "truncate_prompt_tokens", "truncation_side", "add_special_tokens", "use_activation"):
        if getattr(request, name) is not None:
            body[name] = getattr(request, name)
    return body


def pooled(answer: Any, request: PoolingRequest, engine: str) -> Pooled:
    """What is in an answer of `/pooling`; takes it out of the answer.

    May take long: for a thread beside the event loop.

    Raises:
        EngineFailed: It is not what was asked for.
        InvalidRequest: It is too large.
    """
    entries = sorted(_entries(answer), key=lambda entry: as_count(entry.get("index")))
    # Taken out one by one: all numbers at once would be freed in one long step, and all threads wait for that.
    made = [_packed(entry.pop("data", None)) for entry in entries]
    tables = [one for one in made if one is not None]
    widths = {len(row) for table in tables for row in table.rows}
    kinds = {table.per_token for table in tables}
    if len(tables) != len(request.inputs) or len(made) != len(tables) or len(widths) != 1 or len(kinds) != 1:
        raise EngineFailed(f"The server behind {engine} did not pool each input alike.", instance=engine)
    columns = widths.pop() // FLOAT_BYTES
    rows = [len(table.rows) for table in tables]
    check_pooled_size(sum(rows), columns)
    return Pooled(
        values=b"".join(row for table in tables for row in table.rows),
        columns=columns,
        rows=rows,
        per_token=kinds.pop(),
        prompt_tokens=_prompt_tokens(answer),
        engine=engine,
    )


class _Table(NamedTuple):
    rows: Sequence[bytes]
    per_token: bool


def _packed(data: Any) -> _Table | None:
    """One vector, or one of each token, as 32-bit floats, little-endian; None: it is neither."""
    if not isinstance(data, list) or not data:
        return None
    per_token = isinstance(data[0], list)
    try:
        rows = [struct.pack(f"<{len(row)}f", *row) for row in (data if per_token else [data])]
    except (struct.error, OverflowError, TypeError):
        return None
    return _Table(rows, per_token) if all(rows) else None


def _entries(answer: Any) -> list[dict[str, Any]]:
    return [entry for entry in as_list(as_dict(answer).get("data")) if isinstance(entry, dict)]


def _prompt_tokens(answer: Any) -> int:
    return as_count(as_dict(as_dict(answer).get("usage")).get("prompt_tokens"))
