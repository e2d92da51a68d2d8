"""Connections that are held open for long: how many a tenant has, and their end when the server's comes."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Held(Protocol):
    """One of them."""

    def drain(self) -> None:
        """Ends it at the next moment at which nothing is lost."""

    def cut(self) -> None:
        """Ends it now, with what was said by now."""


class Sessions:
    """Those of one process."""

    def __init__(self) -> None:
        self._held: dict[Held, None] = {}
        self._of_tenant: Counter[str] = Counter()
        self._is_draining = False
        self._none_left: asyncio.Future[None] | None = None

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
            if self._none_left is not None and not self._held and not self._none_left.done():
                self._none_left.set_result(None)

    def drain(self) -> None:
        """The server is about to end."""
        self._is_draining = True
        for held in list(self._held):
            held.drain()

    async def cut(self) -> None:
        """The server ends now: ends all, and returns once they have."""
        for held in list(self._held):
            held.cut()
        if self._held:
            self._none_left = asyncio.get_running_loop().create_future()
            await self._none_left
