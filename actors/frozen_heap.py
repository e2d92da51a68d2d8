"""What was made by the time a process serves lives as long as the process: the garbage collector need not look at it.

vLLM, torch and Ray bring some millions of objects. Looking through all of them takes a tenth of a second, in which
every stream of the process stands still, again and again.

What is made after it is mostly freed without the collector, which is for cycles alone. Once the heap is frozen Python
counts nothing as long-lived, so that a single large request, all of it in use, would set off one full collection after
another.
"""

import gc
from typing import Final

_THRESHOLDS: Final = (50_000, 20, 20)
"""Objects made and not freed from one collection of the youngest to the next; collections of each generation from one
of the next older to the next. Python's own are 700, 10 and 10. The first is more than a large request makes."""


def freeze_heap() -> None:
    """Leaves everything there is now out of later collections, and makes those rarer.

    Call it once, when a process is ready to serve.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
