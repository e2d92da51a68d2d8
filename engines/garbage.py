"""Python's garbage collector, out of the way of large requests."""

import gc


class CollectorPaused:
    """Collects no garbage in the `with` block, which must not give up the event loop.

    What is read out of a large request is all in use: the collector finds nothing in it, and takes up to four times as
    long as the reading itself. A class, because every request comes this way, and a generator costs it four times as
    much.
    """

    __slots__ = ("_was_on",)

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_on:
            gc.enable()
