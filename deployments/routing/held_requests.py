"""The requests for one model that wait in this router replica for an instance: how many there may be, and whose.

Where there are too many, the newest of whoever has most of them gives way, so that nobody keeps the others out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engines.errors import NoInstance

FULL_RETRY_S = 10.0
"""What a client is told to wait that finds no place to wait in: about half of a quick boot."""


class Held:
    """One request that waits.

    Attributes:
        tenant: Whose it is; empty: nobody's in particular.
        bytes: What it takes of memory, about.
        gives_way: Its place was given to somebody else's.
        wake: Called when that happens.
    """

    __slots__ = ("bytes", "gives_way", "tenant", "wake")

    def __init__(self, tenant: str, bytes: int) -> None:
        self.tenant = tenant
        self.bytes = bytes
        self.gives_way = False
        self.wake: Callable[[object], None] | None = None


class HeldRequests:
    """All of them.

    Args:
        model: The model's name.
        most: Most requests.
        most_bytes: Most bytes of them together.

    Attributes:
        cold_starts: Requests so far that found no instance at all, and waited for a first one.
    """

    def __init__(self, model: str, most: int, most_bytes: int) -> None:
        self._model = model
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        # By tenant, the oldest first. Who has none is not in it.
        self._by_tenant: dict[str, dict[Held, None]] = {}
        self._count = 0
        self.cold_starts = 0

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def hold(self, tenant: str, bytes: int) -> Iterator[Held]:
        """Holds a request as long as the context lasts.

        Raises:
            NoInstance: There is no place for it.
        """
        held = Held(tenant, bytes)
        self._make_room(held)
        self._by_tenant.setdefault(tenant, {})[held] = None
        self._count += 1
        self._bytes += bytes
        try:
            yield held
        finally:
            self._forget(held)

    def _make_room(self, held: Held) -> None:
        while self._count >= self._most or (self._count and self._bytes + held.bytes > self._most_bytes):
            greedy = max(self._by_tenant, key=lambda tenant: len(self._by_tenant[tenant]))
            if len(self._by_tenant[greedy]) <= len(self._by_tenant.get(held.tenant, ())) + 1:
                raise self.no_place()
            newest = next(reversed(self._by_tenant[greedy]))
            newest.gives_way = True
            self._forget(newest)
            if newest.wake is not None:
                newest.wake(None)
        if held.bytes > self._most_bytes:
            raise self.no_place()

    def no_place(self) -> NoInstance:
        """What a request fails with that finds no place, or gives its place up."""
        return NoInstance(
            f"No instance of the model {self._model!r} is ready, and too many requests wait for one.",
            retry_after_s=FULL_RETRY_S,
        )

    def _forget(self, held: Held) -> None:
        theirs = self._by_tenant.get(held.tenant, {})
        if held not in theirs:
            return
        del theirs[held]
        if not theirs:
            del self._by_tenant[held.tenant]
        self._count -= 1
        self._bytes -= held.bytes
