"""Connections that are held open for long: how many a tenant has, and their end when the server's comes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Held(Protocol):
    """One of them."""

    def drain(self) -> None:
        """Ends it at the next moment at which nothing is lost."""


class Sessions:
    """Those of one process."""

    def __init__(self) -> None:
        self._held: dict[Held, None] = {}
        self._of_tenant: Counter[str] = Counter()
        self._is_draining = False

    def count(self, tenant: str) -> int:
        """How many a tenant has."""
        return self._of_tenant[tenant]

    @contextmanager
    def holding(self, tenant: str, held: Held) -> Iterator[None]:
        """Counts one while it is open."""
        self._held[held] = None
        self._of_tenant[tenant] += 1
        if self._is_draining:
            held.drain()
        try:
            yield
        finally:
            del self._held[held]
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]

    def drain(self) -> None:
        """The server is about to end."""
        self._is_draining = True
        for held in list(self._held):
            held.drain()
