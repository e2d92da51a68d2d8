"""`POST /v1/embeddings`."""

import base64
import json
from collections.abc import Iterator
from typing import Any, Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from deployments.http.openai.generation_body import WithoutEffect
from deployments.http.server.exchange import Exchange
from deployments.http.server.hints import DispatchFields
from deployments.http.server.inputs import Input, check_inputs, read_inputs
from deployments.http.server.long_answer import answer_in_pieces, in_pieces
from deployments.http.server.names import Names
from deployments.http.server.validation import build, parse_body
from engines.call_requests import MAX_INPUTS, Embeddings, EmbedRequest
from engines.events import Usage


class EmbeddingBody(DispatchFields):
    """Texts, or lists of token ids, to be turned into vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str = Field(min_length=1)
    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None
    user: WithoutEffect = None


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
    with exchange.context() as context, names.spoken():
        answer = await exchange.engine(request.model).embed(request, context)
    exchange.instance = answer.engine
    exchange.meter.finish(Usage(prompt_tokens=answer.prompt_tokens))
    return await answer_in_pieces(exchange, _pieces(body, answer))


def _pieces(body: EmbeddingBody, answer: Embeddings) -> Iterator[str]:
    encode = _base64 if body.encoding_format == "base64" else _floats
    yield '{"object": "list", "data": ['
    for index in range(len(answer)):
        yield f'{", " if index else ""}{{"object": "embedding", "index": {index}, "embedding": '
        yield from encode(answer, index)
        yield "}"
    usage = {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens}
    yield f'], "model": {json.dumps(body.model)}, "usage": {json.dumps(usage)}}}'


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
    yield f'"{base64.b64encode(answer.packed(index)).decode()}"'


def _floats(answer: Embeddings, index: int) -> Iterator[str]:
    return in_pieces(answer.floats(index))
