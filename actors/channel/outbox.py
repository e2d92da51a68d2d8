"""The outbox of a channel: what waits to leave the instance for one router replica.

Whatever is there when Ray's stream can take an item leaves as one frame, so under load frames grow by themselves. A
frame costs a third of a millisecond of CPU whatever it carries, so continuations of streams that do not tick together
keep a short pace and share one, and the word that a request has started waits a little for its first piece; that piece
and the end of a request never wait. When the router falls behind, the outbox holds back and merges neighbouring deltas
of one choice: nothing is lost and nothing within a choice is reordered. What waits then is weighed now and then; past
a bound the streams that most of it is of are given up.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from operator import itemgetter
from typing import Any

from actors.channel.frames import Entry, News
from engines.errors import PenstockError
from engines.events import Event, ReasoningDelta, TextDelta, ToolCallArgumentsDelta

MERGE_AT = 4096
"""Entries that may pile up before they are merged where they lie."""
COMPANY_S = 0.01
"""How long what need not leave by itself waits for company."""
_LOGPROB_BYTES = 250
"""About what the log probability of one token takes."""
_NEVER = math.inf
_NOW = 0.0


class Outbox:
    """Entries on their way into frames; at most `window` frames are out without an acknowledgement.

    One reader waits with `ready()` and takes with `take()`. Everything is called from one event loop.

    Args:
        window: Frames that may be out unacknowledged.
        pace_s: Shortest time between two frames when nothing in them is urgent.
        stream_bytes: About how much of one request may wait while the window is used up.
        all_bytes: The same for all of them.
        on_overflow: Called with the number of a request of which too much waits: it is to end. What waits is forgotten.
    """

    __slots__ = (
        "_acknowledged",
        "_all_bytes",
        "_closed",
        "_due_s",
        "_entries",
        "_lags",
        "_merge_at",
        "_news",
        "_next_s",
        "_on_overflow",
        "_pace_s",
        "_sent",
        "_stream_bytes",
        "_waiter",
        "_window",
    )

    def __init__(
        self,
        window: int,
        pace_s: float = 0.0,
        stream_bytes: float = math.inf,
        all_bytes: float = math.inf,
        on_overflow: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._window = window
        self._pace_s = pace_s
        self._stream_bytes = stream_bytes
        self._all_bytes = all_bytes
        self._on_overflow = on_overflow
        self._entries: list[Entry] = []
        self._news: list[News] = []
        # When the next frame is to leave, on the monotonic clock.
        self._due_s = _NEVER
        self._next_s = _NOW  # By its pace, it may leave from here on.
        self._sent = 0
        self._acknowledged = 0
        self._merge_at = MERGE_AT
        self._lags = False
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def sent(self) -> int:
        """Frames taken so far, which is also the sequence number of the last one."""
        return self._sent

    @property
    def acknowledged(self) -> int:
        """The last frame that the reader is known to have had."""
        return self._acknowledged

    @property
    def unacknowledged(self) -> int:
        """Frames taken and not acknowledged."""
        return self._sent - self._acknowledged

    @property
    def is_held(self) -> bool:
        """Whether the window is used up."""
        return self._sent - self._acknowledged >= self._window

    @property
    def is_closed(self) -> bool:
        """Whether it takes nothing more."""
        return self._closed

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._entries or self._news)

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._entries)

    def emit(self, number: int, item: Event | PenstockError) -> None:
        """Puts in the continuation of a stream, which may keep the pace."""
        entries = self._entries
        entries.append((number, item))
        if self._next_s < self._due_s:
            self._leave_by(self._next_s)
        if len(entries) >= self._merge_at:
            self._entries = merge(entries)
            # What cannot be merged is not looked at again for every new entry.
            self._merge_at = max(MERGE_AT, 2 * len(self._entries))
            if self.is_held:
                self._weigh()

    def emit_urgently(self, number: int, item: Event | PenstockError) -> None:
        """Puts in what must not wait: the first piece or the end of a stream."""
        self._entries.append((number, item))
        self._leave_by(_NOW)

    def emit_in_company(self, number: int, item: Event | PenstockError) -> None:
        """Puts in what something else will follow soon: the start of a stream."""
        self._entries.append((number, item))
        self._leave_by(time.monotonic() + COMPANY_S)

    def broadcast(self, news: News) -> None:
        """Puts in something that the router should know."""
        self._news.append(news)
        self._leave_by(_NOW)

    def broadcast_in_company(self, news: News) -> None:
        """The same, for what may wait a little for more of its kind."""
        self._news.append(news)
        self._leave_by(time.monotonic() + COMPANY_S)

    def drop_news(self, topics: Collection[str]) -> None:
        """Forgets the news of these topics that wait."""
        self._news = [news for news in self._news if news.topic not in topics]

    def nudge(self) -> None:
        """Lets a frame leave even when it is empty: a sign of life that carries the load."""
        self._leave_by(_NOW)

    def acknowledge(self, sequence: int) -> None:
        """The router has had the frames up to this one."""
        # An acknowledgement may be overtaken by a later one, and one from beyond what was sent is nonsense.
        self._acknowledged = max(self._acknowledged, min(sequence, self._sent))
        self._wake()

    def close(self) -> None:
        """Takes nothing more and forgets what waits; the reader wakes."""
        self._closed = True
        self._entries = []
        self._news = []
        self._wake()

    async def ready(self) -> bool:
        """Waits until a frame can leave; false when the outbox was closed."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            timer = None
            if self.is_held:
                self._lags = True
            elif self._due_s < _NEVER:
                rest_s = self._due_s - time.monotonic()
                if rest_s <= 0:
                    return True
                timer = loop.call_later(rest_s, self._wake)
            # One future for the whole channel: emitting a token costs no task and at most one wake-up per turn.
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        return False

    def take(self) -> tuple[int, list[Entry], list[News]]:
        """Everything that waits, as the next frame: its sequence number, entries and news."""
        entries, self._entries = self._entries, []
        news, self._news = self._news, []
        if self._lags:
            entries = merge(entries)
        self._merge_at = MERGE_AT
        self._lags = False
        self._due_s = _NEVER
        self._sent += 1
        self._next_s = time.monotonic() + self._pace_s
        return self._sent, entries, news

    def _weigh(self) -> None:
        sizes: dict[int, int] = {}
        for number, item in self._entries:
            sizes[number] = sizes.get(number, 0) + _size(item)
        total = sum(sizes.values())
        overflow = []
        for number, size in sorted(sizes.items(), key=itemgetter(1), reverse=True):
            if size <= self._stream_bytes and total <= self._all_bytes:
                break
            overflow.append(number)
            total -= size
        if overflow:
            gone = set(overflow)
            self._entries = [entry for entry in self._entries if entry[0] not in gone]
            for number in overflow:
                self._on_overflow(number)

    def _leave_by(self, due_s: float) -> None:
        if due_s < self._due_s:
            self._due_s = due_s
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        # While the window is used up there is nothing to wake for: every token would wake the reader in vain.
        if waiter is not None and not waiter.done() and (self._closed or not self.is_held):
            waiter.set_result(None)


def _size(item: Event | PenstockError) -> int:
    """About how many bytes it takes."""
    if not isinstance(item, TextDelta | ReasoningDelta):
        return len(getattr(item, "arguments", ""))
    size = len(item.text) + 8 * len(item.token_ids)
    if item.logprobs:
        size += _LOGPROB_BYTES * len(item.logprobs) * (1 + len(item.logprobs[0].top))
    return size


def merge(entries: Iterable[Entry]) -> list[Entry]:
    """Joins neighbouring deltas of one request, choice and kind; keeps the order of everything within a choice."""
    runs: list[tuple[int, list[Event | PenstockError]]] = []
    latest: dict[tuple[int, int | None], list[Event | PenstockError]] = {}
    for number, item in entries:
        # What names no choice (Started, Finished, an error) opens or ends its request: nothing can move across it.
        key = (number, getattr(item, "index", None))
        run = latest.get(key)
        if run is not None and _joins(run[-1], item):
            run.append(item)
        else:
            run = latest[key] = [item]
            runs.append((number, run))
    return [(number, run[0] if len(run) == 1 else _join(run)) for number, run in runs]


def _joins(last: Event | PenstockError, item: Event | PenstockError) -> bool:
    if isinstance(item, TextDelta | ReasoningDelta):
        return type(last) is type(item) and (last.logprobs is None) == (item.logprobs is None)
    if isinstance(item, ToolCallArgumentsDelta):
        return isinstance(last, ToolCallArgumentsDelta) and last.call == item.call
    return False


def _join(run: list[Any]) -> Event:
    """One delta out of several that `_joins` let together."""
    first = run[0]
    token_ids = tuple(chain.from_iterable(delta.token_ids for delta in run))
    if isinstance(first, ToolCallArgumentsDelta):
        arguments = "".join(delta.arguments for delta in run)
        return ToolCallArgumentsDelta(first.call, arguments, first.index, token_ids)
    text = "".join(delta.text for delta in run)
    logprobs = None if first.logprobs is None else tuple(chain.from_iterable(delta.logprobs for delta in run))
    delta: type[TextDelta | ReasoningDelta] = type(first)
    return delta(text, first.index, token_ids, logprobs)
