"""What was made by the time a process serves lives as long as the process: the garbage collector need not look at it.

vLLM, torch and Ray bring some millions of objects. Looking through all of them takes a tenth of a second, in which
every stream of the process stands still, again and again.
"""

import gc


def freeze_heap() -> None:
    """Leaves everything there is now out of later collections. Call it once, when a process is ready to serve."""
    gc.collect()
    gc.freeze()
