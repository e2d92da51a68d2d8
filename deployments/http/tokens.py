"""`POST /tokenize` and `POST /detokenize`, in vLLM's shapes."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from deployments.http.exchange import Exchange, json_response
from deployments.http.generation_body import Ints
from deployments.http.long_answer import answer_in_pieces, in_pieces
from deployments.http.names import Names
from deployments.http.validation import build, parse_body
from engines.messages import Message, Tool
from engines.requests import DetokenizeRequest, Tokenized, TokenizeRequest


class TokenizeBody(BaseModel):
    """A text, or a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = Field(None, min_length=1)
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(BaseModel):
    """Token ids."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str | None = None
    tokens: Ints


async def tokenize(exchange: Exchange) -> web.StreamResponse:
    """The token ids of a text or conversation.

    Raises:
        PenstockError: It could not.
    """
    data = await exchange.body()
    body = parse_body(TokenizeBody, data)
    model = _model(exchange, body.model)
    fields = {name: getattr(body, name) for name in TokenizeRequest.model_fields if name != "model"}
    answer = await exchange.fleet.tokenize(build(TokenizeRequest, Names(data), model=model, **fields))
    return await answer_in_pieces(exchange, _pieces(answer, answer.tokens if body.return_token_strs else None))


def _pieces(answer: Tokenized, tokens: Sequence[str] | None) -> Iterator[str]:
    yield f'{{"count": {len(answer.token_ids)}, "max_model_len": {answer.context_length}, "tokens": '
    yield from in_pieces(answer.token_ids)
    yield ', "token_strs": '
    yield from ("null",) if tokens is None else in_pieces(tokens)
    yield "}"


async def detokenize(exchange: Exchange) -> web.StreamResponse:
    """The text of token ids.

    Raises:
        PenstockError: It could not.
    """
    data = await exchange.body()
    body = parse_body(DetokenizeBody, data)
    model = _model(exchange, body.model)
    names = Names(data, {("token_ids",): ("tokens",)})
    request = build(DetokenizeRequest, names, model=model, token_ids=body.tokens)
    with names.spoken():
        text = await exchange.fleet.detokenize(request)
    return json_response(json.dumps({"prompt": text}))


def _model(exchange: Exchange, name: str | None) -> str:
    """The model asked for; without a name the first one, as vLLM does."""
    model = exchange.fleet.models()[0].name if name is None else name
    exchange.name_model(model)
    return model
