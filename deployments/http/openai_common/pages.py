"""Lists that are read page by page: what a query asks for, and how a page is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deployments.http.server.exchange import Exchange
from deployments.http.server.query import number
from engines.errors import InvalidRequest

Order = Literal["asc", "desc"]

_ORDERS: Mapping[str, Order] = {"asc": "asc", "desc": "desc"}
_MOST = 100
"""Of one page."""
_USUAL = 20


@dataclass(frozen=True, slots=True)
class Page:
    """What is asked for.

    Attributes:
        limit: So many at most.
        order: `asc`: the first one first.
        after: The id of the one before them; None: from the beginning on.
    """

    limit: int
    order: Order
    after: str | None

    def of(self, items: Sequence[dict[str, Any]], where: str) -> dict[str, Any]:
        """The page of a list, as clients read it.

        Args:
            items: All of them, the first one first, each with its `id`.
            where: What they are in, in an error.

        Raises:
            InvalidRequest: None of them is that of `after`.
        """
        ordered = items if self.order == "asc" else items[::-1]
        rest = ordered if self.after is None else _after(ordered, self.after, where)
        page = rest[: self.limit]
        ids = [item["id"] for item in page]
        return {"object": "list", "data": list(page), **ends(ids, has_more=len(rest) > self.limit)}


def page_asked(exchange: Exchange, usual_order: Order) -> Page:
    """What a query asks for.

    Raises:
        InvalidRequest: It is wrong.
    """
    query = exchange.request.query
    given = query.get("order", usual_order)
    if given not in _ORDERS:
        raise InvalidRequest("order: it must be 'asc' or 'desc'.", param="order")
    return Page(number(exchange, "limit", _USUAL, 1, _MOST), _ORDERS[given], query.get("after"))


def ends(ids: Sequence[str], *, has_more: bool) -> dict[str, Any]:
    """What a page says of itself, given the ids in it."""
    return {"first_id": ids[0] if ids else "", "last_id": ids[-1] if ids else "", "has_more": has_more}


def _after(items: Sequence[dict[str, Any]], id: str, where: str) -> Sequence[dict[str, Any]]:
    for index, item in enumerate(items):
        if item["id"] == id:
            return items[index + 1 :]
    raise InvalidRequest(f"after: there is no item {id[:64]!r} in this {where}.", param="after")
