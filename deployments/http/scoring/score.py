"""`POST /score` and `/v1/score`: how well texts fit one another."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from deployments.http.scoring.scoring_body import ScoringBody, asked_for
from deployments.http.scoring.texts import read_texts
from deployments.http.server.exchange import Exchange
from deployments.http.server.long_answer import answer_in_pieces
from deployments.http.server.model_call import call_model, usage_text
from engines.errors import InvalidRequest
from engines.pooling_requests import Scores

_PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
"""What clients call the texts; all mean the same."""


async def score(exchange: Exchange) -> web.StreamResponse:
    """Scores pairs of texts: one against each of several, or several against as many others.

    Raises:
        PenstockError: It could not.
    """
    data = await exchange.body()
    first, second = _fields(data)
    queries, documents = read_texts(data, first), read_texts(data, second)
    await exchange.turn()
    asked = asked_for(exchange, ScoringBody, data, queries, documents)
    await exchange.turn()
    answer = await call_model(exchange, asked.request, asked.names)
    return await answer_in_pieces(exchange, _pieces(exchange, asked.request.model, answer))


def _fields(data: Mapping[str, Any]) -> tuple[str, str]:
    """What this client calls the texts.

    Raises:
        InvalidRequest: It sent none.
    """
    whole = next((pair for pair in _PAIRS if all(name in data for name in pair)), None)
    # One half of a pair: the other is what is missing.
    half = next((pair for pair in _PAIRS if any(name in data for name in pair)), None)
    found = whole or half
    if found is None:
        raise InvalidRequest("Give text_1 and text_2, or queries and documents.")
    return found


def _pieces(exchange: Exchange, model: str, answer: Scores) -> Iterator[str]:
    yield f'{{"id": {json.dumps(f"score-{exchange.id}")}, "object": "list", "created": {exchange.created_s}, '
    yield f'"model": {json.dumps(model)}, "data": ['
    for index, value in enumerate(answer.floats):
        yield f'{", " if index else ""}{{"index": {index}, "object": "score", "score": {json.dumps(value)}}}'
    yield f'], "usage": {usage_text(answer)}}}'
