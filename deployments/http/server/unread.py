"""What waits for clients that do not read: counted, and bounded for each stream and for all of them together."""

from collections.abc import Callable
from typing import Protocol


class Waiting(Protocol):
    """A stream whose client does not keep up."""

    def give_up(self) -> None:
        """Lets go of what waits, and ends the stream."""


class Unread:
    """The streams of one process that wait for their clients.

    Past the bound for one stream that stream is given up; past the bound for all, the largest are.

    Args:
        stream_bytes: The bound for one.
        all_bytes: The bound for all.
        on_give_up: Called for each stream that is given up.
    """

    def __init__(self, stream_bytes: int, all_bytes: int, on_give_up: Callable[[], None] = lambda: None) -> None:
        self._stream_bytes = stream_bytes
        self._all_bytes = all_bytes
        self._on_give_up = on_give_up
        self._sizes: dict[Waiting, int] = {}
        self.bytes = 0

    def note(self, stream: Waiting, size: int) -> None:
        """So many bytes wait for the client of this stream now."""
        self.bytes += size - self._sizes.get(stream, 0)
        self._sizes[stream] = size
        if size > self._stream_bytes:
            self._give_up(stream)
        while self.bytes > self._all_bytes:
            self._give_up(max(self._sizes, key=self._sizes.__getitem__))

    def forget(self, stream: Waiting) -> None:
        """Nothing waits for it any more."""
        self.bytes -= self._sizes.pop(stream, 0)

    def _give_up(self, stream: Waiting) -> None:
        self.forget(stream)
        self._on_give_up()
        stream.give_up()
