"""Python's garbage collector, out of the way of large requests."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collects no garbage in the block, which must not give up the event loop.

    What is read out of a large request is all in use: the collector finds nothing in it, and takes up to four times as
    long as the reading itself.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
