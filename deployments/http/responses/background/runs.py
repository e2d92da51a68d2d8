"""The responses that one router replica makes in the background: its own, and those that nobody else makes any more."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from deployments.database.background_lease import Lease
from deployments.database.background_responses import NewResponse
from deployments.database.database import DatabaseUnavailable
from deployments.http.responses.background.feeds import Feeds
from deployments.http.responses.background.run import Outcome, Run
from deployments.http.server.exchange import Services
from deployments.http.server.worker import Worker
from engines.errors import Unavailable

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often a replica looks for what nobody makes, about."""
_SHARE = 4
"""This part of the places of a replica may one tenant's responses take."""
_CANCEL_S = 20.0
"""What cancelling one may take: the lease of another replica that is cancelling it and has died."""
_AGAIN_S = 0.1
_JITTER = random.SystemRandom()


class BackgroundRuns(Worker):
    """Makes responses in the background.

    Args:
        services: What requests share; they have a database.

    Attributes:
        feeds: The events of those that are read meanwhile.
    """

    def __init__(self, services: Services) -> None:
        storage = services.storage
        assert storage is not None
        self.feeds = Feeds(storage.background, storage.responses, services.bodies)
        self._services = services
        self._background = storage.background
        self._running: dict[Lease, asyncio.Task[Outcome]] = {}
        self._handing_over: list[asyncio.Task[None]] = []
        self._follower: asyncio.Task[None] | None = None
        self._drains = asyncio.Event()

    def start(self) -> None:
        """Begins to look for what nobody makes."""
        self.feeds.start()
        self._follower = asyncio.get_running_loop().create_task(self._follow())
        self._services.metrics.watch(
            "penstock_background_responses_running",
            "Responses that router replicas are making in the background.",
            lambda: len(self._running),
        )

    def drain(self) -> None:
        """Begins nothing more, and gives back what it makes: another replica goes on at once."""
        if self._drains.is_set():
            return
        self._drains.set()
        loop = asyncio.get_running_loop()
        self._handing_over = [loop.create_task(self._hand_over(*one)) for one in self._running.items()]

    async def stop(self) -> None:
        """Ends."""
        self.drain()
        if self._follower is not None:
            # What it is just taking would be nobody's until its lease ends.
            await asyncio.wait([self._follower])
        if self._handing_over:
            await asyncio.wait(self._handing_over)
        # Those that were to be cancelled, and began meanwhile.
        if self._running:
            await asyncio.wait(self._running.values())
        await self.feeds.stop()

    async def begin(self, new: NewResponse, tenant: str) -> None:
        """Stores a response that is to be made, and makes it if there is room here.

        Raises:
            TooManyInBackground: The tenant has as much as it may.
            DatabaseUnavailable: The database does not answer.
        """
        is_held = self._has_room and tenant not in self._full()
        lease = await self._background.create(new, tenant, is_held=is_held)
        if not is_held:
            return
        task = self._run(lease, new)
        if self._drains.is_set():
            await self._hand_over(lease, task)

    async def cancel(self, id: str, tenant: str) -> None:
        """Ends a response, whoever makes it; returns once it has ended.

        Raises:
            Unavailable: It takes too long.
            DatabaseUnavailable: The database does not answer.
        """
        try:
            async with asyncio.timeout(_CANCEL_S):
                while True:
                    lease = await self._background.take_to_cancel(id, tenant)
                    if lease is not None:
                        self.forget(id)
                        await asyncio.wait([self._run(lease)])
                    elif await self._background.find(id, tenant) is None:
                        return
                    else:
                        await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            raise Unavailable("The response is being cancelled. Look later whether it was.") from None

    def forget(self, id: str) -> None:
        """Nothing more is to be said of a response, if it is made here: it was taken by somebody else, or removed."""
        for lease, task in self._running.items():
            if lease.id == id:
                lease.is_over = True
                task.cancel()
        self.feeds.look()

    @property
    def _has_room(self) -> bool:
        """Whether one more may be made here."""
        most = self._services.settings.responses.background.max_per_replica
        return not self._drains.is_set() and len(self._running) < most

    def _full(self) -> Sequence[str]:
        """Tenants that have as much made here as one may: the rest is there for others."""
        most = max(1, self._services.settings.responses.background.max_per_replica // _SHARE)
        made = Counter(lease.tenant for lease in self._running)
        return [tenant for tenant, count in made.items() if count >= most]

    async def _follow(self) -> None:
        while not self._drains.is_set():
            with suppress(TimeoutError):
                # Replicas that have begun at once do not look at once.
                async with asyncio.timeout(LOOK_S * _JITTER.uniform(0.5, 1.5)):
                    await self._drains.wait()
            with suppress(DatabaseUnavailable):
                # The log and /metrics say so already, and the next time comes.
                while self._has_room and (lease := await self._background.take(self._full())) is not None:
                    self._take(lease)

    def _take(self, lease: Lease) -> None:
        if lease.losses:
            logger.warning("response %s goes on here: whoever made it was lost", lease.id)
            self._services.metrics.background("taken_over")
        task = self._run(lease)
        if self._drains.is_set():
            self._handing_over.append(asyncio.create_task(self._hand_over(lease, task)))

    def _run(self, lease: Lease, new: NewResponse | None = None) -> asyncio.Task[Outcome]:
        task = asyncio.get_running_loop().create_task(Run(self._services, lease, self.feeds, new).run())
        self._running[lease] = task
        task.add_done_callback(lambda task: self._ended(lease, task))
        return task

    def _ended(self, lease: Lease, task: asyncio.Task[Outcome]) -> None:
        del self._running[lease]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._services.metrics.background(task.result())
        else:
            # Its lease ends, and it is tried again.
            logger.error("response %s failed", lease.id, exc_info=error)

    async def _hand_over(self, lease: Lease, task: asyncio.Task[Outcome]) -> None:
        """Gives one back, unless it ends by itself."""
        if lease.is_cancelled:
            await asyncio.wait([task])
            return
        task.cancel()
        await asyncio.wait([task])
        if not lease.is_over:
            # Where that fails its lease ends, and somebody else takes it then.
            with suppress(DatabaseUnavailable):
                await self._background.release(lease, 0.0, had_no_room=False)
                self._services.metrics.background("handed_over")
