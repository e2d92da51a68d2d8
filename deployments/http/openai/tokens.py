"""`POST /tokenize` and `POST /detokenize`, in vLLM's shapes."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from deployments.http.openai.chat_body import check_arguments
from deployments.http.server.body_parts import Ints
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.long_answer import answer_in_pieces, in_pieces
from deployments.http.server.names import Names
from deployments.http.server.validation import build, parse_body
from engines.call_requests import DetokenizeRequest, Tokenized, TokenizeRequest
from engines.errors import Forbidden
from engines.messages import Message, Tool


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


_SAME_NAME = TokenizeRequest.model_fields.keys() & TokenizeBody.model_fields.keys() - {"model"}


async def tokenize(exchange: Exchange) -> web.StreamResponse:
    """The token ids of a text or conversation.

    Raises:
        PenstockError: It could not.
    """
    data = await exchange.body()
    body = parse_body(TokenizeBody, data)
    check_arguments(body.messages or ())
    model = _model(exchange, body.model)
    fields = {name: getattr(body, name) for name in _SAME_NAME}
    request = build(TokenizeRequest, Names(data), model=model, return_tokens=body.return_token_strs, **fields)
    await exchange.turn()
    answer = await exchange.engine(model).tokenize(request)
    return await answer_in_pieces(exchange, _pieces(answer))


def _pieces(answer: Tokenized) -> Iterator[str]:
    yield f'{{"count": {len(answer.token_ids)}, "max_model_len": {answer.context_length}, "tokens": '
    yield from in_pieces(answer.token_ids)
    yield ', "token_strs": '
    yield from ("null",) if answer.tokens is None else in_pieces(answer.tokens)
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
    await exchange.turn()
    request = build(DetokenizeRequest, names, model=model, token_ids=body.tokens)
    await exchange.turn()
    with names.spoken():
        text = await exchange.engine(model).detokenize(request)
    return json_response(json.dumps({"prompt": text}))


def _model(exchange: Exchange, name: str | None) -> str:
    """The model asked for; without a name the first one, as vLLM does.

    Raises:
        Forbidden: There is none that whoever asks may use.
    """
    if name is None:
        models = exchange.models
        if not models:
            raise Forbidden("The API key's tenant may use no model that is served here.")
        name = models[0].name
    exchange.name_model(name)
    return name
