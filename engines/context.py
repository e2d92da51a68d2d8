"""Identity and cancellation of one request.

A Context belongs to one event loop and is not thread-safe: everything that stops, kills or waits does so from that
loop. Callbacks run synchronously inside `stop()` and `kill()`: cancelling costs no task and no turn of the loop.
"""

import asyncio
import math
import uuid
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TypeVar

from engines.errors import Cancelled


class CancelState(IntEnum):
    """How far a request was cancelled. It only ever grows."""

    LIVE = 0
    STOPPED = 1
    KILLED = 2


T = TypeVar("T")
Callback = Callable[["Context"], None]
Unsubscribe = Callable[[], None]


class Context:
    """One request's id, and the two ways to end it early.

    `stop()` asks the engine to finish politely: what was produced stays valid and the stream ends with reason
    `cancelled`. `kill()` terminates without draining; it implies stopped, and a later `stop()` does not soften it. Both
    are idempotent and flow down to children, never up.

    The deadline is for those who would wait on the request's behalf, such as before trying again: they do not wait
    past it. What ends a request that is late is the `Timeout` operator.

    Attributes:
        id: The request id. Children made by `child()` share it unless they are given their own.
        deadline_s: When the caller gives up, on the clock of `time.monotonic()`; infinite where it does not. Children
            have their parent's, or an earlier one of their own.
        traceparent: The caller's span, as W3C Trace Context writes it; empty where there is none. Children have their
            parent's.
    """

    __slots__ = ("_callbacks", "_children", "_held", "_moves", "_state", "deadline_s", "id", "traceparent")

    def __init__(self, id: str | None = None, deadline_s: float = math.inf, traceparent: str = "") -> None:
        self.id = id if id is not None else uuid.uuid4().hex
        self.deadline_s = deadline_s
        self.traceparent = traceparent
        self._moves = [0]
        self._held: list[Callable[[], None]] | None = None
        self._state = CancelState.LIVE
        # Dicts keep the order of registration and remove in constant time.
        self._callbacks: dict[object, tuple[CancelState, Callback]] = {}
        self._children: dict[int, Context] = {}

    def __repr__(self) -> str:
        return f"Context({self.id!r}, {self._state.name.lower()})"

    @property
    def state(self) -> CancelState:
        """How far it was cancelled."""
        return self._state

    @property
    def is_stopped(self) -> bool:
        """True once `stop()` or `kill()` was called."""
        return self._state >= CancelState.STOPPED

    @property
    def is_killed(self) -> bool:
        """True once `kill()` was called."""
        return self._state >= CancelState.KILLED

    @property
    def moves(self) -> int:
        """How often a stream of the request broke and went on elsewhere, those of its children included."""
        return self._moves[0]

    def note_move(self) -> None:
        """A stream of the request goes on elsewhere."""
        self._moves[0] += 1

    def note_held(self) -> None:
        """The request waits for an engine that has yet to boot."""
        for hear in self._held or ():
            hear()

    def on_held(self, hear: Callable[[], None]) -> None:
        """Calls this each time that the request, or one of the children made from now on, begins such a wait."""
        self._held = [*(self._held or ()), hear]

    def stop(self) -> None:
        """Asks for a polite end."""
        self._advance(CancelState.STOPPED)

    def kill(self) -> None:
        """Ends it at once."""
        self._advance(CancelState.KILLED)

    def cancellation(self) -> Cancelled:
        """What a request of this context fails with once it was killed."""
        return Cancelled(f"The request {self.id} was cancelled.")

    def child(self, id: str | None = None) -> "Context":
        """Makes a linked child, with this id unless it is given its own, and the same deadline."""
        child = Context(self.id if id is None else id)
        self.link(child)
        return child

    def link(self, child: "Context") -> Unsubscribe:
        """Lets stop and kill flow down to `child`; an already cancelled parent cancels it at once.

        Returns:
            A function that unlinks the child again; call it when the child's work is over.

        Raises:
            ValueError: The link would make the context its own descendant.
        """
        if child is self or child._reaches(self):
            raise ValueError(f"linking {child!r} below {self!r} would make a cycle")
        key = id(child)
        self._children[key] = child
        child.deadline_s = min(child.deadline_s, self.deadline_s)
        child.traceparent = child.traceparent or self.traceparent
        child._moves = self._moves
        child._held = self._held
        if self._state is not CancelState.LIVE:
            child._advance(self._state)

        def unlink() -> None:
            self._children.pop(key, None)

        return unlink

    def on_stop(self, callback: Callback) -> Unsubscribe:
        """Calls `callback(self)` once, when stopped or killed; at once if that was already."""
        return self._subscribe(CancelState.STOPPED, callback)

    def on_kill(self, callback: Callback) -> Unsubscribe:
        """Calls `callback(self)` once, when killed; at once if that was already."""
        return self._subscribe(CancelState.KILLED, callback)

    async def sleep(self, seconds: float) -> bool:
        """Waits so long, or until stopped or killed; whether it was neither. A tie is the caller's."""
        try:
            async with asyncio.timeout(seconds):
                await self.stopped()
        except TimeoutError:
            pass
        return not self.is_stopped

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """What `work` gives; it is cancelled when stopped or killed. Of a tie, what it gives counts.

        However this ends, the work has ended, or was told to.

        Raises:
            Cancelled: It was stopped or killed before that.
        """
        doing = asyncio.ensure_future(work)
        unsubscribe = self.on_stop(lambda _: _cancel(doing))
        try:
            return await doing
        except asyncio.CancelledError:
            if self.is_stopped and doing.cancelled():
                raise self.cancellation() from None
            raise
        finally:
            unsubscribe()
            doing.cancel()

    async def stopped(self) -> None:
        """Returns when stopped or killed."""
        await self._reached(CancelState.STOPPED)

    async def killed(self) -> None:
        """Returns when killed."""
        await self._reached(CancelState.KILLED)

    def _reaches(self, other: "Context") -> bool:
        return any(child is other or child._reaches(other) for child in self._children.values())

    def _subscribe(self, state: CancelState, callback: Callback) -> Unsubscribe:
        if self._state >= state:
            callback(self)
            return _nothing
        key = object()
        self._callbacks[key] = (state, callback)

        def unsubscribe() -> None:
            self._callbacks.pop(key, None)

        return unsubscribe

    async def _reached(self, state: CancelState) -> None:
        if self._state >= state:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake(_: Context) -> None:
            if not done.done():
                done.set_result(None)

        unsubscribe = self._subscribe(state, wake)
        try:
            await done
        finally:
            unsubscribe()

    def _advance(self, state: CancelState) -> None:
        if self._state >= state:
            return
        self._state = state
        due = [key for key, (wanted, _) in self._callbacks.items() if wanted <= state]
        callbacks = [self._callbacks.pop(key)[1] for key in due]
        # Children first: an engine deep below stops producing before anyone above reacts to the end.
        for child in list(self._children.values()):
            child._advance(state)
        for callback in callbacks:
            callback(self)


def _cancel(work: asyncio.Future[T]) -> None:
    work.cancel()


def _nothing() -> None:
    return None
