"""What an instance tells one router, change by change, of something that it could also tell as a whole.

Where the router takes no frames, or more waits than is worth telling one by one, what waits is dropped, and all there
is goes with the next frame. So what waits is bounded, whatever happens at the instance.
"""

from collections.abc import Callable, Collection
from typing import Any

from actors.channel.frames import News
from actors.channel.outbox import Outbox

MAX_WAITING = 4096
"""Changes of one kind that wait for the next frame."""
MAX_WAITING_BYTES = 1024 * 1024
"""About how much they may be: no less than all there is mostly takes."""


class StandingNews:
    """News of one kind, on their way into an outbox.

    Args:
        outbox: What takes them.
        topics: Those of the changes.
        everything: Makes the news that tell all there is; None: there is nothing.
        max_waiting: Most changes that wait.
        max_bytes: About how much they may be.
    """

    __slots__ = ("_bytes", "_count", "_everything", "_is_behind", "_max_bytes", "_max_waiting", "_outbox", "_topics")

    def __init__(
        self,
        outbox: Outbox,
        topics: Collection[str],
        everything: Callable[[], News | None],
        max_waiting: int = MAX_WAITING,
        max_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._outbox = outbox
        self._topics = topics
        self._everything = everything
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._is_behind = False
        # Of the changes that wait.
        self._count = 0
        self._bytes = 0

    def tell(self, news: News) -> None:
        """Tells of a change, soon; later of everything, where too much waits or the router takes no frames."""
        if self._is_behind:
            return
        self._count += 1
        self._bytes += _size(news.body)
        if self._outbox.is_held or self._count > self._max_waiting or self._bytes > self._max_bytes:
            self._outbox.drop_news(self._topics)
            self.tell_everything()
        else:
            self._outbox.broadcast_in_company(news)

    def tell_everything(self) -> None:
        """Tells of all there is, with the next frame."""
        self._is_behind = True
        self._outbox.nudge()

    def taken(self) -> News | None:
        """A frame takes what waits; what it is to tell besides."""
        self._count = self._bytes = 0
        if not self._is_behind:
            return None
        self._is_behind = False
        return self._everything()


def _size(part: Any) -> int:
    """About how many bytes plain data takes: what of it may be long."""
    if isinstance(part, str | bytes):
        return len(part)
    return sum(map(_size, part)) if isinstance(part, list | tuple) else 0
