"""What goes up a channel, put back into the order in which it was sent.

Ray runs the calls of an async actor out of order: a small call overtakes a large one, and under load any overtakes any.
So everything that goes up carries the number of its stream, and its place in that stream from 0. What comes early is
held until what belongs before it has come. What never comes was lost on the way, and the channel with it.

Streams are numbered one after another, so that a number that never came can be told from one that is over.
"""

from collections.abc import Callable
from typing import Literal

from actors.channel.carriage import Carried

Submission = tuple[str, bytes, tuple[Carried, ...]]
"""Opens a stream: its context's id, the pickled GenerateRequest, and the attachments of that, which are not in it.

Each request is pickled on its own, so that one that cannot be read fails alone.
"""

Message = Submission | Literal["stop", "kill"]
"""What a caller says of a stream; a Submission always first."""

Upward = tuple[int, int, Message]
"""The number of a stream on its channel, the place of the message in the stream, and the message."""


class Upstream:
    """The messages of one channel, each delivered in the order of its stream, once.

    Args:
        first: Number of the channel's first stream.
        deliver: Takes the number of a stream and its next message.
    """

    __slots__ = ("_ahead", "_deliver", "_held", "_next", "_opened")

    def __init__(self, first: int, deliver: Callable[[int, Message], None]) -> None:
        self._deliver = deliver
        # Every stream before this one was opened, and so were those in `_ahead`.
        self._opened = first
        self._ahead: set[int] = set()
        # Of streams that are not over: the place of the next message, and what came before its turn.
        self._next: dict[int, int] = {}
        self._held: dict[int, dict[int, Message]] = {}

    @property
    def missing(self) -> tuple[int, int] | None:
        """The first message that others wait for, as the number of its stream and its place; None: nothing waits."""
        if self._ahead:
            return self._opened, 0
        if self._held:
            number = min(self._held)
            return number, self._next.get(number, 0)
        return None

    def take(self, message: Upward) -> None:
        """Delivers the message, and what waited for it; or holds it. What is over takes no notice."""
        number, place, item = message
        if place == 0:
            self._open(number)
        elif number not in self._next and self._was_opened(number):
            return
        if place != self._next.get(number, 0):
            self._held.setdefault(number, {})[place] = item
            return
        self._next[number] = place + 1
        self._deliver(number, item)
        held = self._held.get(number)
        # The delivery may have ended the stream, and `forget` taken the rest along.
        while held and number in self._held and (place := self._next[number]) in held:
            item = held.pop(place)
            if not held:
                del self._held[number]
            self._next[number] = place + 1
            self._deliver(number, item)

    def forget(self, number: int) -> None:
        """A stream is over: what still comes of it is dropped."""
        self._next.pop(number, None)
        self._held.pop(number, None)

    def _open(self, number: int) -> None:
        self._ahead.add(number)
        while self._opened in self._ahead:
            self._ahead.remove(self._opened)
            self._opened += 1

    def _was_opened(self, number: int) -> bool:
        return number < self._opened or number in self._ahead
