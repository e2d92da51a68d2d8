"""Lists that are read page by page: what a query asks for, and how a page is written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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

    def of(self, ids: Sequence[str], where: str) -> tuple[Sequence[int], bool]:
        """Where the items of the page are, and whether others follow.

        Args:
            ids: Those of all items, the first one first.
            where: What they are in, in an error.

        Raises:
            InvalidRequest: None of them is that of `after`.
        """
        places = range(len(ids)) if self.order == "asc" else range(len(ids) - 1, -1, -1)
        if self.after is not None:
            try:
                before = ids.index(self.after)
            except ValueError:
                message = f"after: there is no item {self.after[:64]!r} in this {where}."
                raise InvalidRequest(message, param="after") from None
            places = places[places.index(before) + 1 :]
        return places[: self.limit], len(places) > self.limit


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


def page_text(items: Sequence[str], ids: Sequence[str], *, has_more: bool) -> str:
    """A page as clients read it.

    Args:
        items: What is on it, as JSON texts.
        ids: The id of each.
        has_more: Whether others follow.
    """
    ends = {"first_id": ids[0] if ids else "", "last_id": ids[-1] if ids else "", "has_more": has_more}
    return f'{{"object": "list", "data": [{", ".join(items)}], {json.dumps(ends)[1:]}'
