"""The id of a request: the client's own where it is safe, else a new one."""

import re
import uuid

HEADER = "x-request-id"

_SAFE = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(given: str | None) -> str:
    """The id that the client gave, if it is a safe token; else a new one."""
    if given is not None and _SAFE.fullmatch(given):
        return given
    return uuid.uuid4().hex


class LiveIds:
    """Ids of the requests under way, so that no two of them share one.

    A client may send the same id twice at a time, as it does when it retries; further down an id names one request.
    """

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def take(self, id: str) -> str:
        """The id, or, when a request under way has it, one made from it. Give it back with `release`."""
        taken = id
        while taken in self._ids:
            taken = f"{id}-{uuid.uuid4().hex[:8]}"
        self._ids.add(taken)
        return taken

    def release(self, id: str) -> None:
        """Gives back an id that `take` returned."""
        self._ids.discard(id)
