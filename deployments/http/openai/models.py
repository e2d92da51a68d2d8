"""`GET /v1/models` and `GET /v1/models/{id}`."""

import json
from dataclasses import asdict
from typing import Any

from aiohttp import web

from deployments.fleet import ModelCard
from deployments.http.server.exchange import Exchange, json_response


async def models(exchange: Exchange) -> web.StreamResponse:
    """What is served to whoever asks."""
    cards = [model.card() for model in exchange.models]
    data = [_model(name, card) for card in cards for name in (card.name, *card.aliases)]
    return json_response(json.dumps({"object": "list", "data": data}))


async def model(exchange: Exchange) -> web.StreamResponse:
    """One of them. Its id may contain slashes.

    Raises:
        ModelNotFound: It is not served.
    """
    (name,) = exchange.ids
    return json_response(json.dumps(_model(name, exchange.model_of(name).card())))


def _model(name: str, card: ModelCard) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": card.created_s,
        "owned_by": "penstock",
        "root": card.name,
        "parent": card.parent,
        "max_model_len": card.capabilities.context_length or None,
        "capabilities": {**asdict(card.capabilities), "fill_in_the_middle": card.fill_in_the_middle},
        "status": card.status,
        "permission": [],
    }
