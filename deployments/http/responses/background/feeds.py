"""The events of responses in the background, for whoever reads them while there are more to come.

However many read one response, this replica tells it once. Where it also makes it, each batch comes as soon as it is
stored; else, and for what was missed, the database is asked, for all of them at once.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress

from deployments.database.background_responses import BackgroundResponses
from deployments.database.database import DatabaseUnavailable
from deployments.database.kept_responses import KeptResponse, KeptResponses
from deployments.http.responses.background.batches import Batch
from deployments.http.responses.background.told import Head, ToldResponse
from deployments.http.responses.rhythm import replayed
from deployments.http.server.bodies import Bodies
from engines.errors import PenstockError
from engines.turns import Turns

logger = logging.getLogger(__name__)

LOOK_S = 0.25
"""How often the database is asked."""
_EVENTS = 256
"""Events that a reader is given in one piece, at most."""


class Feed:
    """The events of one response, from its first one on.

    Args:
        head: How the response is told.
        tenant: Whose it is.
        bodies: The budget that its events count against.

    Attributes:
        id: The response's id.
        tenant: As given.
        batches: How many of its batches were told.
        events: The events.
        readers: How many read it.
        is_over: Whether there are no more events to come.
    """

    def __init__(self, head: Head, tenant: str, bodies: Bodies) -> None:
        self.id = head.id
        self.tenant = tenant
        self.batches = 0
        self.events: list[str] = []
        self.readers = 0
        self.is_over = False
        self._told = ToldResponse(head)
        self._bodies = bodies
        self._chars = 0
        self._changed = asyncio.Event()
        self._add(_separate(self._told.opening()))

    async def read(self, first: int, keep_alive_s: float) -> AsyncIterator[str]:
        """The events from a number on, some at a time, until there are no more; empty ones where nothing comes."""
        while True:
            while first < len(self.events):
                some = self.events[first : first + _EVENTS]
                first += len(some)
                yield "".join(some)
            if self.is_over:
                return
            changed = self._changed
            try:
                async with asyncio.timeout(keep_alive_s):
                    await changed.wait()
            except TimeoutError:
                yield ""

    def take(self, number: int, batch: str) -> None:
        """Tells the batch of that number, if it comes next.

        Raises:
            BodiesOverBudget: There is no room for its events.
        """
        if number == self.batches and not self.is_over:
            self.batches += 1
            self._add(_separate(self._told.tell(Batch.parse(batch))))

    async def finish(self, response: str, output: str, rhythm: str) -> None:
        """The response has ended: tells the rest of it, as it is stored.

        Raises:
            BodiesOverBudget: There is no room for its events.
        """
        turns = Turns()
        rest = []
        whole = {**json.loads(response), "output": json.loads(output)}
        for place, event in enumerate(replayed(whole, json.loads(rhythm or "[]"))):
            if place >= len(self.events):
                rest.append(event)
            await turns.pause()
        if not self.is_over:
            self._add(rest)
            self.end()

    def end(self) -> None:
        """There are no more events."""
        self.is_over = True
        self._wake()

    def forget(self) -> None:
        """Nobody reads it any more."""
        self.end()
        self._bodies.give_back(self._chars)
        self._chars = 0
        self.events = []

    def _add(self, events: Sequence[str]) -> None:
        chars = sum(map(len, events))
        self._bodies.take(chars)
        self._chars += chars
        self.events += events
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Feeds:
    """The feeds of one router replica.

    Args:
        unfinished: Where responses are that have not ended.
        kept: Where they are then.
        bodies: The budget that their events count against.
    """

    def __init__(self, unfinished: BackgroundResponses, kept: KeptResponses, bodies: Bodies) -> None:
        self._unfinished = unfinished
        self._kept = kept
        self._bodies = bodies
        self._feeds: dict[str, Feed] = {}
        self._look_now = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to ask the database."""
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """Ends all feeds."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])
        for feed in self._feeds.values():
            feed.end()

    @contextmanager
    def reading(self, head: Head, tenant: str) -> Iterator[Feed]:
        """The feed of a response.

        Raises:
            BodiesOverBudget: There is no room for its events.
        """
        feed = self._feeds.get(head.id)
        if feed is None or feed.is_over:
            feed = self._feeds[head.id] = Feed(head, tenant, self._bodies)
            self.look()
        feed.readers += 1
        try:
            yield feed
        finally:
            feed.readers -= 1
            if not feed.readers:
                feed.forget()
                if self._feeds.get(feed.id) is feed:
                    del self._feeds[feed.id]

    def look(self) -> None:
        """Asks the database soon: there is news."""
        self._look_now.set()

    def publish(self, id: str, number: int, batch: str) -> None:
        """A batch of a response was stored."""
        feed = self._feeds.get(id)
        if feed is not None:
            self._take(feed, number, [batch])

    async def finish(self, response: KeptResponse) -> None:
        """A response was stored as it has ended."""
        feed = self._feeds.get(response.id)
        if feed is not None:
            await self._finish(feed, response)

    async def _finish(self, feed: Feed, response: KeptResponse) -> None:
        try:
            await feed.finish(response.response, response.output, response.rhythm)
        except PenstockError as error:
            self._give_up(feed, error)

    def _give_up(self, feed: Feed, error: PenstockError) -> None:
        # Its readers come again later, and go on from where they are.
        logger.warning("response %s: %s: %s", feed.id, error.code, error.message)
        feed.end()

    def _take(self, feed: Feed, first: int, batches: Sequence[str]) -> None:
        try:
            for number, batch in enumerate(batches, first):
                feed.take(number, batch)
        except PenstockError as error:
            self._give_up(feed, error)

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self._feeds else None):
                    await self._look_now.wait()
            self._look_now.clear()
            with suppress(DatabaseUnavailable):
                # The log and /metrics say so already, and the next time comes.
                await self._look()

    async def _look(self) -> None:
        open_feeds = [feed for feed in self._feeds.values() if not feed.is_over]
        if not open_feeds:
            return
        progress = await self._unfinished.progress([feed.id for feed in open_feeds])
        for feed in open_feeds:
            try:
                await self._catch_up(feed, progress.get(feed.id))
            except DatabaseUnavailable:
                raise
            except Exception:
                # Its readers are not to wait for ever, and those of the others are not to be lost with it.
                logger.exception("response %s cannot be told", feed.id)
                feed.end()

    async def _catch_up(self, feed: Feed, batches: int | None) -> None:
        if batches is None:
            found = (await self._kept.find([feed.id], feed.tenant)).get(feed.id)
            if found is None:
                feed.end()
            else:
                await self._finish(feed, found)
        elif batches > feed.batches:
            first = feed.batches
            self._take(feed, first, await self._unfinished.batches(feed.id, first))


def _separate(events: str) -> list[str]:
    return [f"{event}\n\n" for event in events.split("\n\n")[:-1]]
