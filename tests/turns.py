"""How long one turn of an event loop is: in CPU time, so that it is the program's and not the machine's."""

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

_QUIET_S = 0.0115
"""What `slowness` measures takes on a quiet core of the machine that the bounds were set on."""

T = TypeVar("T")

TRIES = 3
"""What the machine does beside us slows CPU time, too: the best of a few."""


async def no_turn_is_longer(work: Callable[[], Awaitable[T]], bound_s: float) -> T:
    """What `work` gives, if no callback while it runs takes more CPU time than this on the machine of the bounds.

    Raises:
        AssertionError: One did, however often it was tried.
    """
    gc.collect()
    gc.freeze()  # As the replicas do once they serve.
    try:
        for _ in range(TRIES):
            bound_now_s = bound_s * slowness()
            with longest_turn() as longest:
                # In a task, so that its own turns are measured.
                made = await asyncio.gather(work())
            if longest.s < bound_now_s:
                return made[0]
    finally:
        gc.unfreeze()
    raise AssertionError(f"A turn of {longest.s:.3f} s, bound {bound_now_s:.3f} s: {longest.what}")


def slowness() -> float:
    """How much slower than that one this machine is now, at least 1: its cores, and what others leave of them."""
    text = json.dumps(list(range(100_000)))
    took_s = []
    for _ in range(5):
        began_s = time.thread_time()
        json.loads(text)
        json.loads(text)
        took_s.append(time.thread_time() - began_s)
    return max(1.0, min(took_s) / _QUIET_S)


@dataclass
class Longest:
    """The longest callback so far, in CPU seconds, and what it was."""

    s: float = 0.0
    what: str = ""


@contextmanager
def longest_turn() -> Iterator[Longest]:
    """Measures every callback of the event loops of this process."""
    longest = Longest()
    run = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> Any:
        began_s = time.thread_time()
        result = run(handle)
        took_s = time.thread_time() - began_s
        if took_s > longest.s:
            longest.s, longest.what = took_s, repr(handle)[:300]
        return result

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio.Handle, "_run", measured)
        yield longest
