"""What a query asks for, and pages of items."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from deployments.http.server.exchange import Exchange
from engines.errors import InvalidRequest

MOST_ITEMS = 100
"""Of a page of items."""
USUAL_ITEMS = 20


def flag_in(exchange: Exchange, name: str) -> bool:
    """Whether a parameter of the query is true.

    Raises:
        InvalidRequest: It is neither true nor false.
    """
    given = exchange.request.query.get(name, "false")
    if given not in ("true", "false"):
        raise InvalidRequest(f"{name}: it must be 'true' or 'false'.", param=name)
    return given == "true"


def number_in(exchange: Exchange, name: str, usual: int, least: int, most: int) -> int:
    """A whole number in the query.

    Raises:
        InvalidRequest: It is none, or none of those that it may be.
    """
    given = exchange.request.query.get(name)
    if given is None:
        return usual
    # `isdecimal` alone would let in digits of other scripts, and int() numbers of any length.
    if not (given.isascii() and given.isdecimal() and len(given) <= 16 and least <= int(given) <= most):
        raise InvalidRequest(f"{name}: it must be a whole number from {least} to {most}.", param=name)
    return int(given)


def page_in(exchange: Exchange) -> tuple[int, Literal["asc", "desc"]]:
    """How many items the query asks for, and in which order.

    Raises:
        InvalidRequest: One of them is wrong.
    """
    limit = number_in(exchange, "limit", USUAL_ITEMS, 1, MOST_ITEMS)
    order = exchange.request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order: it must be 'asc' or 'desc'.", param="order")
    return limit, "asc" if order == "asc" else "desc"


def page_text(items: Sequence[Mapping[str, Any]], *, has_more: bool) -> str:
    """A page of items, as JSON text."""
    page = {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else "",
        "last_id": items[-1]["id"] if items else "",
        "has_more": has_more,
    }
    return json.dumps(page)
