"""Importing vLLM with few of the garbage collections that it would set off.

It makes more than half a million objects that stay. Python looks through all of them, again and again, for those that
do not: a quarter of the time that the import takes.
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = (100_000, 50, 100)
"""As `gc.set_threshold` takes them: of the youngest objects only, a few times."""
_lock = threading.Lock()
_usual: list[tuple[int, int, int]] = []
"""The process's own, once for each that imports now."""


@contextmanager
def few_collections() -> Iterator[None]:
    """While vLLM is imported, here or in other threads."""
    with _lock:
        _usual.append(_usual[0] if _usual else gc.get_threshold())
        gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        with _lock:
            usual = _usual.pop()
            # Somebody may have chosen others meanwhile.
            if not _usual and gc.get_threshold() == _THRESHOLDS:
                gc.set_threshold(*usual)
