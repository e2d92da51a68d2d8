"""`POST /rerank`, `/v1/rerank` and `/v2/rerank`: documents in the order in which they fit a query."""

import json
from collections.abc import Iterator, Sequence

from aiohttp import web
from pydantic import Field

from deployments.http.scoring.scoring_body import ScoringBody, asked_for
from deployments.http.scoring.texts import read_text, read_texts
from deployments.http.server.exchange import Exchange
from deployments.http.server.long_answer import answer_in_pieces, text_in_pieces
from deployments.http.server.model_call import call_model, usage_text
from engines.pooling_requests import Scores


class RerankBody(ScoringBody):
    """Documents to be ranked.

    Attributes:
        top_n: How many come back; None and 0: all.
        return_documents: Whether the texts come back, too.
    """

    top_n: int | None = Field(None, ge=0)
    return_documents: bool | None = None


async def rerank(exchange: Exchange) -> web.StreamResponse:
    """Ranks documents.

    Raises:
        PenstockError: It could not.
    """
    data = await exchange.body()
    query, documents = read_text(data, "query"), read_texts(data, "documents")
    await exchange.turn()
    asked = asked_for(exchange, RerankBody, data, query, documents)
    await exchange.turn()
    answer = await call_model(exchange, asked.request, asked.names)
    texts = None if asked.body.return_documents is False else documents.texts
    return await answer_in_pieces(exchange, _pieces(exchange, asked.request.model, asked.body.top_n, answer, texts))


def _pieces(
    exchange: Exchange, model: str, top_n: int | None, answer: Scores, texts: Sequence[str] | None
) -> Iterator[str]:
    yield f'{{"id": {json.dumps(f"rerank-{exchange.id}")}, "model": {json.dumps(model)}, "usage": {usage_text(answer)}'
    yield ', "results": ['
    values = answer.floats
    # Of those that fit alike, the first one goes first.
    ranked = sorted(range(len(values)), key=lambda index: -values[index])
    for place, index in enumerate(ranked[: top_n or None]):
        yield f'{", " if place else ""}{{"index": {index}, "relevance_score": {json.dumps(values[index])}'
        if texts is not None:
            yield ', "document": {"text": '
            yield from text_in_pieces(texts[index])
            yield "}"
        yield "}"
    yield "]}"
