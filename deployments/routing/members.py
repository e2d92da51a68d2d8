"""Members: the instances as this router replica sees them, each with an open egress.

The directory says which instances there are. For each of them a keeper opens the egress as soon as it is ready, so that
the first request pays no setup; opens it again when it was lost; and closes it once the instance is gone and what ran
on it has ended.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from actors.channel.frames import News
from actors.channel.listener import Listener
from actors.directory.known_instance import Instance, InstanceState
from deployments.routing.faults import Faults
from deployments.routing.held_requests import Held
from deployments.routing.member import InstanceEgress, Member
from engines.call_requests import Request
from engines.context import Context
from engines.errors import PenstockError

logger = logging.getLogger(__name__)

RECONNECT_S = 0.2
"""Shortest pause before an egress is opened again, whatever `inhibit_s` says."""
PROBE_S = 5.0
"""What an instance whose egress was lost gets to show that it can work, before it is used again."""
CLOSE_POLL_S = 0.5
"""How often an egress to an instance that is gone is asked whether its last request has ended."""

Connect = Callable[[Instance, Listener], InstanceEgress]
"""Makes the egress to an instance; it is not open yet. The listener is to hear of what becomes of it."""

Watch = Callable[[], AsyncIterator[Sequence[Instance]]]
"""Yields all instances of all models: first as they are now, then whenever something changed."""


class Losses(Protocol):
    """Who hears of instances that were lost."""

    def lost(self, instance: str, node: str, suspects: Sequence[Request], *, is_dead: bool) -> None:
        """It is dead, or hangs; or it fell silent, and may live."""

    def found_dead(self, instance: str) -> None:
        """It fell silent before, if it did, and is dead."""

    def found_alive(self, instance: str) -> None:
        """It fell silent before, if it did, and lives."""


class Members:
    """All members of all models, kept up to date.

    Args:
        watch: Source of the instances.
        connect: Makes the egress to one.
        faults: Which are inhibited, by model; instances of other models are left out.
        heard: Called with each piece of news from an instance.
        losses: Hears of each instance that was lost, and of the requests that may have been its end.
    """

    def __init__(
        self,
        watch: Watch,
        connect: Connect,
        faults: Mapping[str, Faults],
        heard: Callable[[Instance, News], None],
        losses: Losses,
    ) -> None:
        self._watch = watch
        self._connect = connect
        self._faults = faults
        self._heard = heard
        self._losses = losses
        self._members: dict[str, dict[str, Member]] = {model: {} for model in faults}
        self._keepers: dict[Member, asyncio.Task[None]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._seen = asyncio.Event()
        self._waiting: set[Callable[[object], None]] = set()

    def of(self, model: str) -> list[Member]:
        """The members of a model that the directory shows."""
        return list(self._members[model].values())

    def in_flight(self, model: str | None = None) -> int:
        """What is under way through this replica, on instances that the directory forgot as well.

        Args:
            model: On those of one model; None: on all.
        """
        return sum(member.in_flight for member in self._keepers if model in (None, member.instance.model))

    async def change(self, context: Context, timeout_s: float, held: Held | None = None) -> None:
        """Returns when another instance may take a request, its place is lost, it was stopped, or the time is up."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake(_: object) -> None:
            if not changed.done():
                changed.set_result(None)

        self._waiting.add(wake)
        if held is not None:
            held.wake = wake
        unsubscribe = context.on_stop(wake)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await changed
        finally:
            unsubscribe()
            self._waiting.discard(wake)

    def heard_of(self, node: str) -> float:
        """When anything was last heard of an instance on the node, on the monotonic clock; 0: never."""
        egresses = [member.egress for member in self._keepers if member.instance.node == node]
        return max((egress.heard_s for egress in egresses if egress is not None), default=0.0)

    async def start(self) -> None:
        """Starts to watch. Returns when the first view is there."""
        self._watcher = asyncio.create_task(self._follow(), name="members")
        seen = asyncio.create_task(self._seen.wait())
        await asyncio.wait({seen, self._watcher}, return_when=asyncio.FIRST_COMPLETED)
        seen.cancel()
        self.check()

    async def stop(self) -> None:
        """Closes every egress; what is under way fails."""
        tasks = [*self._keepers.values()]
        if self._watcher is not None:
            tasks.append(self._watcher)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for members in self._members.values():
            members.clear()

    def check(self) -> None:
        """Returns while the instances are being watched.

        Raises:
            RuntimeError: The watching ended; the view is getting old.
        """
        if self._watcher is not None and self._watcher.done() and not self._watcher.cancelled():
            raise RuntimeError("The router no longer hears of instances.") from self._watcher.exception()

    async def _follow(self) -> None:
        async for instances in self._watch():
            self._update(instances)
            self._seen.set()

    def _update(self, instances: Sequence[Instance]) -> None:
        present = {
            (instance.model, instance.id): instance
            for instance in instances
            if instance.model in self._members and instance.state is not InstanceState.GONE
        }
        for model, members in self._members.items():
            for id, member in [*members.items()]:
                instance = present.get((model, id))
                if instance is None or instance.incarnation > member.instance.incarnation:
                    member.left.set()
                    del members[id]
            self._faults[model].forget_others(members)
        for (model, id), instance in present.items():
            known = self._members[model].get(id)
            if known is None:
                known = self._members[model][id] = Member(instance)
            elif instance.incarnation == known.instance.incarnation:
                known.instance = instance
            if instance.state is InstanceState.READY and known not in self._keepers:
                self._keepers[known] = keeper = asyncio.create_task(self._keep(known), name=f"keeper of {id}")
                keeper.add_done_callback(partial(self._kept, known))
        self._changed()

    def _changed(self) -> None:
        for wake in [*self._waiting]:
            wake(None)

    def _lost(self, lost: Member, suspects: Sequence[Request], *, is_dead: bool) -> None:
        """An instance was lost: its neighbours may be next, and whoever was its end must be found."""
        now_s = time.monotonic()
        for member in self._keepers:
            if member is not lost and member.instance.node == lost.instance.node:
                member.neighbour_lost_s = now_s
        self._losses.lost(lost.id, lost.instance.node, suspects, is_dead=is_dead)

    def _kept(self, member: Member, task: asyncio.Task[None]) -> None:
        del self._keepers[member]
        if not task.cancelled() and (error := task.exception()) is not None:
            # A bug; without a keeper the instance is not used until the directory speaks of it again.
            logger.error("The channel to %s is no longer kept.", member.id, exc_info=error)

    async def _keep(self, member: Member) -> None:
        faults = self._faults[member.instance.model]
        is_suspect = False
        while not member.left.is_set():
            lost: asyncio.Future[PenstockError] = asyncio.get_running_loop().create_future()
            egress = self._connect(member.instance, _Follower(self, member, lost))
            try:
                await egress.start()
                if is_suspect:
                    await egress.probe(PROBE_S)
                self._losses.found_alive(member.id)
                member.egress = egress
                self._changed()
                error = await self._until_over(member, lost)
                if error is None:
                    return
                logger.warning("Lost the channel to %s: %s", member.id, error.message)
            except PenstockError as failure:
                logger.warning("Cannot reach %s: %s", member.id, failure.message)
                # If it fell silent, it has not come back.
                self._losses.found_dead(member.id)
            finally:
                member.egress = None
                await egress.stop(0)
            is_suspect = True
            incarnation = member.instance.incarnation
            faults.inhibit(member.id, incarnation)
            self._changed()
            await asyncio.sleep(max(RECONNECT_S, faults.remaining_s(member.id, incarnation)))
        # It fell silent, and is gone.
        self._losses.found_dead(member.id)

    async def _until_over(self, member: Member, lost: asyncio.Future[PenstockError]) -> PenstockError | None:
        """Waits until the egress is lost, and returns why; or until the instance is gone and nothing runs on it."""
        left = asyncio.create_task(member.left.wait())
        either: set[asyncio.Future[Any]] = {lost, left}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
        # A directory that forgot the instance for a moment must not cut what runs on it.
        while not lost.done():
            if not member.in_flight:
                return None
            await asyncio.wait({lost}, timeout=CLOSE_POLL_S)
        return lost.result()


class _Follower:
    """Hears of one egress, from its opening to its loss."""

    def __init__(self, members: Members, member: Member, lost: asyncio.Future[PenstockError]) -> None:
        self._members = members
        self._member = member
        self._lost = lost

    def lost(self, error: PenstockError, suspects: Sequence[Request], *, is_dead: bool) -> None:
        """Lets the keeper open it again, and says who may have been the end of the instance."""
        if not self._lost.done():
            self._lost.set_result(error)
            self._members._lost(self._member, suspects, is_dead=is_dead)

    def stalled(self, error: PenstockError) -> None:
        """Leaves the instance alone for a while: what it does with one stream it may do with the next."""
        instance = self._member.instance
        self._members._faults[instance.model].inhibit(instance.id, instance.incarnation)

    def heard(self, news: News) -> None:
        """Passes it on, with the instance that said it."""
        self._members._heard(self._member.instance, news)
