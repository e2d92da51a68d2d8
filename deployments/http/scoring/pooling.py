"""`POST /pooling`: what a pooling model makes of texts, as it is."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from deployments.http.scoring.model_name import named_model
from deployments.http.scoring.scoring_body import COMMON_REFUSALS
from deployments.http.server.body_parts import Ignored, Refusals, supported
from deployments.http.server.exchange import Exchange
from deployments.http.server.hints import DispatchFields
from deployments.http.server.inputs import Input, check_inputs, read_inputs
from deployments.http.server.long_answer import answer_in_pieces, base64_in_pieces, in_pieces
from deployments.http.server.model_call import call_model, usage_text
from deployments.http.server.names import Names
from deployments.http.server.validation import build, parse_body
from engines.call_requests import MAX_INPUTS
from engines.pooling_requests import Pooled, PoolingRequest, PoolingTask

_CHATS = "conversations are not pooled. Send their text in `input`"
_REFUSALS: Refusals = {
    **COMMON_REFUSALS,
    "dimensions": ("vectors of /pooling are as long as the model makes them; /v1/embeddings shortens them", ()),
    "embed_dtype": ("numbers are 32-bit floats", ("float32",)),
    "endianness": ("numbers are little-endian", ("native", "little")),
    "messages": (_CHATS, ()),
    "add_generation_prompt": (_CHATS, (False,)),
    "continue_final_message": (_CHATS, (False,)),
    "chat_template": (_CHATS, ()),
    "chat_template_kwargs": (_CHATS, ({},)),
    "media_io_kwargs": (_CHATS, ({},)),
    "data": ("plugins of vLLM's are not served", ()),
    "normalize": ("it is `use_activation` now", ()),
}


class PoolingBody(DispatchFields):
    """Texts, or lists of token ids, to be pooled."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = Field(None, min_length=1)
    input: Input
    task: PoolingTask | None = None
    encoding_format: Literal["float", "base64"] | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool | None = None
    use_activation: bool | None = None
    user: Ignored = None


_SAME_NAME = ("task", "truncate_prompt_tokens", "truncation_side", "add_special_tokens", "use_activation")


async def pooling(exchange: Exchange) -> web.StreamResponse:
    """Pools texts.

    Raises:
        PenstockError: It could not.
    """
    data = await exchange.body()
    check_inputs(data, "input", MAX_INPUTS)
    body = parse_body(PoolingBody, supported(data, _REFUSALS))
    await exchange.turn()
    request, names = _request(exchange, body, data)
    await exchange.turn()
    answer = await call_model(exchange, request, names)
    return await answer_in_pieces(exchange, _pieces(exchange, request.model, answer, body.encoding_format == "base64"))


def _request(exchange: Exchange, body: PoolingBody, data: Mapping[str, Any]) -> tuple[PoolingRequest, Names]:
    inputs, table = read_inputs(body.input)
    hints = exchange.hints()
    names = Names(data, {**body.dispatch_names(hints), **table})
    request = build(
        PoolingRequest,
        names,
        model=named_model(exchange, body.model, "pooling"),
        inputs=inputs,
        **{name: getattr(body, name) for name in _SAME_NAME},
        **body.dispatch(hints),
    )
    return request, names


def _pieces(exchange: Exchange, model: str, answer: Pooled, base64: bool) -> Iterator[str]:
    yield f'{{"id": {json.dumps(f"pool-{exchange.id}")}, "object": "list", "created": {exchange.created_s}, '
    yield f'"model": {json.dumps(model)}, "data": ['
    for index, packed in enumerate(answer.packed()):
        yield f'{", " if index else ""}{{"index": {index}, "object": "pooling", "data": '
        yield from base64_in_pieces(packed) if base64 else _numbers(answer, packed)
        yield "}"
    yield f'], "usage": {usage_text(answer)}}}'


def _numbers(answer: Pooled, packed: memoryview) -> Iterator[str]:
    """A list of numbers, or of each token one."""
    rows = answer.floats(packed)
    if not answer.per_token:
        yield from in_pieces(next(rows))
        return
    yield "["
    for place, row in enumerate(rows):
        if place:
            yield ", "
        yield from in_pieces(row)
    yield "]"
