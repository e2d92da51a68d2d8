"""A call that the model itself works for and answers at once: vectors, scores, what it pools."""

import json
from typing import TypeVar

from deployments.http.server.exchange import Exchange
from deployments.http.server.names import Names
from engines.call_requests import CallRequest, ModelAnswer
from engines.events import Usage

Answer = TypeVar("Answer", bound=ModelAnswer)


async def call_model(exchange: Exchange, request: CallRequest[Answer], names: Names) -> Answer:
    """What the model answers; it is metered, and the answer's headers will say which instance it was.

    Args:
        exchange: What asks.
        request: What is asked for.
        names: What the caller calls the request's fields.

    Raises:
        PenstockError: It could not; what it says of a field it calls as the caller does.
    """
    with exchange.context() as context, names.spoken():
        answer = await exchange.engine(request.model).call(request, context)
    exchange.instance = answer.engine
    exchange.meter.finish(Usage(prompt_tokens=answer.prompt_tokens))
    return answer


def usage_text(answer: ModelAnswer) -> str:
    """The `usage` object of such an answer, as JSON: nothing was generated."""
    return json.dumps({"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens})
