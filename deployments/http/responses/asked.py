"""What a request for a response asks an engine for."""

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.database.kept_responses import Size
from deployments.http.responses.reasoning import Sealer
from deployments.http.responses.response_body import ResponseBody, response_asking
from deployments.http.responses.said import Placed, conversation_in
from deployments.http.server.asking import Asking
from deployments.http.server.exchange import Exchange


async def asked(
    exchange: Exchange, body: ResponseBody, data: Mapping[str, Any], sealer: Sealer
) -> tuple[Asking, Sequence[Placed], Size | None]:
    """What an engine is asked for; the items that the request adds to its conversation; how much there was of that.

    The conversation itself, which may be large, is nobody's any more then.

    Args:
        exchange: The request.
        body: Its body.
        data: What that was parsed from.
        sealer: Opens what is encrypted.

    Raises:
        PenstockError: The body is wrong, or what it refers to cannot be had.
    """
    with exchange.services.bodies.room() as room:
        said, conversation = await conversation_in(exchange, body, sealer, room)
        return response_asking(body, data, exchange.hints(), conversation), said.input, said.previous
