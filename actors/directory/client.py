"""The ways to the directory: finding it, announcing to it, watching it, through its deaths."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from actors.daemon_thread import in_daemon_thread
from actors.directory.budgets import Claim, Grant
from actors.directory.directory import Directory, View
from actors.directory.kept_values import KeptValues
from actors.directory.known_instance import Instance

LOOK_S = 1.0
"""Between two looks whether an instance has anything new to say, as its load."""
RENEW_S = 2.0
"""The longest between two announcements of an instance that has not."""
RETRY_S = 0.5
"""Between two tries to reach a directory that is not there."""
CALL_TIMEOUT_S = 10.0
"""A new directory is a new process, which takes its time to start."""
NAME = "directory"
_HEAD_NODE = "node:__internal_head__"
"""The resource by which Ray names its head node."""

_log = logging.getLogger(__name__)


class DirectoryClient:
    """Talks to the directory of one fleet; finds or makes it anew when it is gone.

    Args:
        fleet: Name of the fleet, which is the Ray namespace of its actors.
    """

    def __init__(self, fleet: str) -> None:
        self._fleet = fleet
        self._actor: Any = None
        self._finding: asyncio.Future[Any] | None = None

    async def announce(self, instance: Instance) -> bool:
        """Adds an instance, or renews its lease; false when a newer incarnation has taken its place.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        renewed: bool = await self._call("announce", instance)
        return renewed

    async def withdraw(self, id: str, incarnation: int) -> None:
        """Removes an instance, unless a newer incarnation has taken its place.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        await self._call("withdraw", id, incarnation)

    async def snapshot(self) -> View:
        """What the directory knows now.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        view: View = await self._call("snapshot")
        return view

    async def post(self, key: str, value: bytes, ttl_s: float) -> None:
        """Puts a value on the board for `ttl_s` seconds.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        await self._call("post", key, value, ttl_s)

    async def board(self, prefix: str = "") -> dict[str, bytes]:
        """The values on the board whose keys start so.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        values: dict[str, bytes] = await self._call("board", prefix)
        return values

    async def quarantine(self, fingerprint: str, ttl_s: float) -> None:
        """Lets every router know of a request that takes engines with it, for so long; returns when they do.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        await self._call("quarantine", fingerprint, ttl_s)

    async def swap(self, expected: Mapping[str, bytes | None], values: Mapping[str, bytes | None]) -> bool:
        """Puts values on the board, all at once, if it holds what is expected; whether it did. See `Directory.swap`.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        swapped: bool = await self._call("swap", expected, values)
        return swapped

    async def claim(self, claims: dict[str, Claim], timeout_s: float) -> dict[str, Grant | None]:
        """Says what this process has spent of tenants' budgets, and what it wants; what it may. See `Budgets.claim`.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        grants: dict[str, Grant | None] = await self._call("claim", claims, timeout_s=timeout_s)
        return grants

    async def keep(self, key: str, value: bytes) -> None:
        """Keeps a value past the directory's own end, in place of an earlier one of that key.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        await self._call("keep", key, value)

    async def kept(self, key: str, known: str = "") -> tuple[str, bytes | None]:
        """The digest of the value of a key, empty where there is none; and the value, unless its digest is known.

        Raises:
            RayError, TimeoutError: The directory cannot be reached now.
        """
        kept: tuple[str, bytes | None] = await self._call("kept", key, known)
        return kept

    async def watch(self, poll_s: float = 10.0) -> AsyncIterator[View]:
        """What the directory knows, now and after every change; goes on through every death of the directory.

        While a directory is so young that it may not know everybody, those it does not name are kept as they were.

        Args:
            poll_s: The longest that one call waits for a change.
        """
        version = None
        key = b""
        watcher = uuid.uuid4().hex
        instances: dict[str, Instance] = {}
        while True:
            try:
                asked = (version, poll_s, key, watcher)
                latest: View = await self._call("watch", *asked, timeout_s=poll_s + CALL_TIMEOUT_S)
            except (RayError, TimeoutError, ValueError) as error:
                _log.info("The directory of fleet %s cannot be reached: %s", self._fleet, type(error).__name__)
                await asyncio.sleep(RETRY_S)
                continue
            if latest.version == version:
                continue
            version, key = latest.version, latest.key
            instances = latest.instances if latest.is_complete else {**instances, **latest.instances}
            yield replace(latest, instances=dict(instances))

    async def _call(self, method: str, *args: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        async with asyncio.timeout(timeout_s):
            actor = self._actor if self._actor is not None else await self._found()
            try:
                return await getattr(actor, method).remote(*args)
            except (RayError, asyncio.CancelledError):
                if self._actor is actor:
                    self._actor = None
                raise

    async def _found(self) -> Any:
        # In a thread: it asks Ray's control service, which may stand still while tokens must flow. In one thread,
        # however often it is tried meanwhile.
        if self._finding is None or self._finding.done():
            self._finding = in_daemon_thread(self._find)
        self._actor = await asyncio.shield(self._finding)
        return self._actor

    def _find(self) -> Any:
        return (
            ray.remote(_FleetDirectory)
            .options(
                name=NAME,
                namespace=self._fleet,
                get_if_exists=True,
                lifetime="detached",
                num_cpus=0,
                # Beside Ray's control service: a node that is cut off must not take the directory along.
                resources={_HEAD_NODE: 0.001},
                # Else an engine actor that makes it would capture it in its own placement group, and take it along
                # when that group is removed.
                scheduling_strategy="DEFAULT",
                max_restarts=-1,
                max_concurrency=10_000,
                enable_task_events=False,
            )
            .remote(self._fleet)
        )


class _FleetDirectory(Directory):
    """The directory of a fleet in Ray."""

    def __init__(self, fleet: str) -> None:
        super().__init__(values=KeptValues(fleet))


class Announcer:
    """Keeps one instance announced until it is withdrawn.

    Args:
        client: The way to the directory.
        describe: The instance as it is now.
    """

    def __init__(self, client: DirectoryClient, describe: Callable[[], Instance]) -> None:
        self._client = client
        self._describe = describe
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to announce. Idempotent."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def changed(self) -> None:
        """Announces at once, not when the next renewal is due."""
        self._changed.set()

    async def stop(self) -> None:
        """Stops announcing; the instance is known until its lease runs out, or to be announced by somebody else."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def withdraw(self) -> None:
        """Stops announcing and removes the instance; when the directory cannot be reached, its lease runs out."""
        await self.stop()
        instance = self._describe()
        try:
            await self._client.withdraw(instance.id, instance.incarnation)
        except (RayError, TimeoutError, ValueError) as error:
            _log.info("The instance %s could not be withdrawn: %s", instance.id, type(error).__name__)

    async def _run(self) -> None:
        announced: Instance | None = None
        announced_s = 0.0
        while True:
            self._changed.clear()
            instance = self._describe()
            wait_s = LOOK_S
            # An announcement costs two processes a millisecond; of many idle instances that adds up.
            if instance != announced or time.monotonic() - announced_s >= RENEW_S:
                announced_s = time.monotonic()
                try:
                    await self._client.announce(instance)
                    announced = instance
                except (RayError, TimeoutError, ValueError) as error:
                    _log.info("The directory cannot be reached: %s", type(error).__name__)
                    announced = None
                    wait_s = RETRY_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
