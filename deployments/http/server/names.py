"""The names of a request's fields, as its caller wrote them.

The checks of `engines.requests`, the router and the engines name the fields of the requests that they know
(`sampling.max_tokens`). The caller sent something else (`max_completion_tokens`, a header), and an error that names
what is not in it helps little. So each API fills one table per request while it builds it, and whatever names a field
goes through that table.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from engines.errors import PenstockError

Location = tuple[int | str, ...]
"""Where a field is: `messages[0].role` is ("messages", 0, "role")."""
Table = Mapping[Location, Location | None]
"""Places in a request of `engines.requests`, without `sampling`, and where the caller has the same; None: nowhere."""

_PIECE = re.compile(r"[^.\[\]]+|\[[0-9]+\]")
_IDENTIFIER = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
_MAX_CHARS = 80


class Names:
    """What the caller called the fields of one request. What is not in the table has the same name.

    Args:
        data: What the caller sent.
        table: What the caller calls otherwise; the more exact place goes before the one that holds it. None: what was
            sent is a request of `engines.requests` as it is.

    Attributes:
        data: As given.
        table: As given; empty where there is none.
    """

    __slots__ = ("data", "table")

    def __init__(self, data: Any, table: Table | None = None) -> None:
        self.data = data
        self.table: Table = {} if table is None else table

    def place(self, theirs: Location) -> tuple[Location | None, Location]:
        """Where the caller has a field, as far as the table says, and the rest of the way."""
        way = theirs[1:] if self.table and len(theirs) > 1 and theirs[0] == "sampling" else theirs
        for length in range(len(way), 0, -1):
            known = way[:length]
            if known in self.table:
                return self.table[known], way[length:]
        return (), way

    def param(self, theirs: str | None) -> str | None:
        """The caller's name of a field that an engine names."""
        if theirs is None:
            return None
        pieces: list[str] = _PIECE.findall(theirs)
        callers, rest = self.place(tuple(int(piece[1:-1]) if piece.startswith("[") else piece for piece in pieces))
        return None if callers is None else notation((*callers, *rest))

    def text(self, message: str) -> str:
        """A message, with the names of whole fields in it as the caller has them."""
        return _IDENTIFIER.sub(lambda found: self._word(found[0]), message)

    @contextmanager
    def spoken(self) -> Iterator[None]:
        """What is raised inside speaks of the caller's fields."""
        try:
            yield
        except PenstockError as error:
            # What names no field is no request's own: the error of a dead engine fails many.
            if error.param is not None:
                error.param = self.param(error.param)
                error.message = self.text(error.message)
                error.args = (error.message,)
            raise

    def _word(self, word: str) -> str:
        return notation(self.table.get((word,)) or ()) or word


def notation(location: Iterable[int | str]) -> str | None:
    """A location as callers write it; None for an empty one."""
    text = ""
    for piece in location:
        if isinstance(piece, int):
            text += f"[{piece}]"
        else:
            text += f".{piece[:_MAX_CHARS]}" if text else piece[:_MAX_CHARS]
    return text or None
