"""Which model is asked: vLLM's server has one, and clients of it may leave its name out."""

from typing import Literal

from deployments.http.server.exchange import Exchange
from engines.errors import InvalidRequest


def named_model(exchange: Exchange, name: str | None, capability: Literal["score", "pooling"]) -> str:
    """The model asked for; without a name the first one that can do it.

    Raises:
        InvalidRequest: No name was given, and none can.
    """
    if name is None:
        able = (model.name for model in exchange.models if getattr(model.engine.capabilities, capability))
        name = next(able, None)
    if name is None:
        raise InvalidRequest("model: this field is required, for no model that is ready does this.", param="model")
    exchange.name_model(name)
    return name
