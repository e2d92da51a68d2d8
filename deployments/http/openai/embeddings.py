"""`POST /v1/embeddings`."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from deployments.http.server.body_parts import Ignored
from deployments.http.server.exchange import Exchange
from deployments.http.server.hints import DispatchFields
from deployments.http.server.inputs import Input, check_inputs, read_inputs
from deployments.http.server.long_answer import answer_in_pieces, base64_in_pieces, in_pieces
from deployments.http.server.model_call import call_model, usage_text
from deployments.http.server.names import Names
from deployments.http.server.validation import build, parse_body
from engines.call_requests import MAX_INPUTS, Embeddings, EmbedRequest


class EmbeddingBody(DispatchFields):
    """Texts, or lists of token ids, to be turned into vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str = Field(min_length=1)
    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None
    user: Ignored = None


async def embeddings(exchange: Exchange) -> web.StreamResponse:
    """Makes vectors.

    Raises:
        PenstockError: It could not.
    """
    data = await exchange.body()
    check_inputs(data, "input", MAX_INPUTS)
    body = parse_body(EmbeddingBody, data)
    exchange.name_model(body.model)
    await exchange.turn()
    request, names = _request(exchange, body, data)
    await exchange.turn()
    answer = await call_model(exchange, request, names)
    return await answer_in_pieces(exchange, _pieces(body, answer))


def _pieces(body: EmbeddingBody, answer: Embeddings) -> Iterator[str]:
    encode = _base64 if body.encoding_format == "base64" else _floats
    yield '{"object": "list", "data": ['
    for index in range(len(answer)):
        yield f'{", " if index else ""}{{"object": "embedding", "index": {index}, "embedding": '
        yield from encode(answer, index)
        yield "}"
    yield f'], "model": {json.dumps(body.model)}, "usage": {usage_text(answer)}}}'


def _request(exchange: Exchange, body: EmbeddingBody, data: dict[str, Any]) -> tuple[EmbedRequest, Names]:
    inputs, table = read_inputs(body.input)
    hints = exchange.hints()
    names = Names(data, {**body.dispatch_names(hints), **table})
    request = build(
        EmbedRequest,
        names,
        model=body.model,
        inputs=inputs,
        dimensions=body.dimensions,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        **body.dispatch(hints),
    )
    return request, names


def _base64(answer: Embeddings, index: int) -> Iterator[str]:
    """OpenAI's: 32-bit floats, little-endian."""
    return base64_in_pieces(memoryview(answer.packed(index)))


def _floats(answer: Embeddings, index: int) -> Iterator[str]:
    return in_pieces(answer.floats(index))
