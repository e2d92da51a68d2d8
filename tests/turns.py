"""How long one turn of an event loop is: in CPU time, so that it is the program's and not the machine's.

And whether long work leaves the loop to others for more than a turn.
"""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from engines import turns

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


class Steps:
    """The steps of long work, each of which counts as long enough to leave the event loop to others after it."""

    def __init__(self) -> None:
        self.turns = 0  # Of others.
        self._taken: list[int] = []

    def take(self) -> None:
        """To be called in each step."""
        self._taken.append(self.turns)

    def check(self, count: int) -> None:
        """Raises AssertionError unless there were so many, and others had dozens of turns between any two."""
        between = [later - earlier for earlier, later in pairwise(self._taken)]
        assert len(self._taken) == count
        assert min(between) >= 50, between


@asynccontextmanager
async def others_go_on() -> AsyncIterator[Steps]:
    """Others, each of whose steps is a turn of the event loop, while long work is done."""
    steps = Steps()

    async def others() -> None:
        while True:
            steps.turns += 1
            await asyncio.sleep(0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(turns, "TURN_S", 0.0)
        # Long enough for so many turns on any machine.
        patched.setattr(turns, "REST_S", 0.03)
        patched.setattr(turns, "_next_s", 0.0)
        going = asyncio.create_task(others())
        try:
            yield steps
        finally:
            going.cancel()
