"""Trials: a request that may be the end of the engine runs while nobody is beside it of whom as much may be true.

Those are the ones that the engine has and that have got nothing from it yet: who dies of a request dies of one of them.
So a trial begins once there is none of them, and whoever comes during it waits until it has got something, or is over.
"""

import asyncio


class Trials:
    """The trials of one instance, one at a time, whichever router sends them.

    Requests are told apart by what stands for them, whatever that is.
    """

    def __init__(self) -> None:
        self._trial: object | None = None
        self._is_exclusive = False
        self._beginning: set[object] = set()
        self._waiting: list[asyncio.Future[None]] = []

    def enter(self, request: object) -> bool:
        """Takes a request that is to be tried; false where there is one already."""
        if self._trial is not None:
            return False
        self._trial, self._is_exclusive = request, True
        return True

    def may_begin(self, request: object) -> bool:
        """Whether it can be handed to the engine now; if so, that is about to happen."""
        if self._is_exclusive and (self._trial is not request or self._beginning):
            return False
        self._beginning.add(request)
        return True

    async def begin(self, request: object) -> None:
        """Returns when `may_begin`."""
        while not self.may_begin(request):
            changed = asyncio.get_running_loop().create_future()
            self._waiting.append(changed)
            await changed

    def begun(self, request: object) -> None:
        """It has got something from the engine."""
        self._beginning.discard(request)
        if self._is_exclusive:
            self._is_exclusive = self._trial is not request
            self._wake()

    def leave(self, request: object) -> None:
        """It is over, wherever it was."""
        self._beginning.discard(request)
        if self._trial is request:
            self._trial, self._is_exclusive = None, False
            self._wake()
        elif self._is_exclusive:
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            if not changed.done():
                changed.set_result(None)
