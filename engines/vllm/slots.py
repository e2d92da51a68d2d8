"""Slots: how many choices of requests for several the core has at a time, so that others find room in its steps.

vLLM's queue is first come first served: the choices of two requests for 128 would keep a request for one waiting until
nearly all of them have ended. A choice that has no slot yet is not sent, and the requests take turns.
"""

import asyncio

from engines.choice_share import share_of_several


class RequestSlots:
    """The slots of one request's choices.

    Args:
        free: Those of the engine that are free. First come first served: a request that asks for one after the other
            takes turns with the rest.
    """

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free = free
        self._taken = 0
        self._is_closed = False

    @property
    def is_waiting(self) -> bool:
        """Whether the core has none of its choices now."""
        return self._taken == 0

    async def take(self) -> bool:
        """Waits for a slot for one more choice; false when the request has ended meanwhile."""
        await self._free.acquire()
        if self._is_closed:
            self._free.release()
            return False
        self._taken += 1
        return True

    def leave(self) -> None:
        """One of its choices has ended."""
        if self._taken:
            self._taken -= 1
            self._free.release()

    def close(self) -> None:
        """The request has ended, with all its choices."""
        self._is_closed = True
        while self._taken:
            self.leave()


def engine_slots(sequences: int) -> asyncio.Semaphore:
    """The slots of an engine whose step has at most so many sequences, all free."""
    return asyncio.Semaphore(share_of_several(sequences))
