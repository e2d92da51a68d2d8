"""The directory: who serves what, where.

One small actor per fleet. It is a cache of what the instances say of themselves every two seconds at least, so losing
it loses nothing: a new one is filled within seconds, and until then every reader keeps its last view.
"""

import asyncio
import hashlib
import math
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from secrets import token_bytes

from actors.daemon_thread import in_daemon_thread
from actors.directory.budgets import Budgets, Claim, Grant
from actors.directory.kept_values import MemoryValues, Values
from actors.directory.known_instance import Instance
from engines.contract import Load

LEASE_S = 6.0
"""An instance that was not announced for so long is forgotten."""
GRACE_S = 6.0
"""A new directory does not claim to know everybody before it is so old."""
SILENT_S = 5.0
"""A watcher that has not asked again for so long after its answer is gone."""
TOLD_S = 2.0
"""The longest that a quarantine waits for the routers to know it: one of them may be dead."""
_TOMBSTONE_S = 600.0
_BUDGET = "budget/"
"""In front of the tenant's name, where its budget is kept."""
_KEY_BYTES = 16

Version = tuple[str, int]
"""Which directory (each actor has its own word), and how often its content has changed."""


@dataclass(frozen=True, slots=True)
class View:
    """What the directory knows.

    Attributes:
        version: Of the content.
        instances: By id.
        is_complete: False while the directory is so young that instances may be missing.
        quarantined: Fingerprints of requests that take engines with them, each with the seconds that it is refused for.
        key: What the fingerprints are made with.
    """

    version: Version
    instances: dict[str, Instance]
    is_complete: bool
    quarantined: dict[str, float] = field(default_factory=dict)
    key: bytes = b""


class Directory:
    """The instances of a fleet, and a small board for figures that have no better place.

    Args:
        lease_s: An instance that was not announced for so long is forgotten.
        grace_s: Age before which it does not claim to know everybody.
        clock: Monotonic time in seconds.
        values: Where what must outlive the directory is kept; None: in this process alone.
    """

    def __init__(
        self,
        lease_s: float = LEASE_S,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
        values: Values | None = None,
    ) -> None:
        self._values = values = values or MemoryValues()
        self._budgets = Budgets(
            lambda tenant: values.load(_BUDGET + tenant), lambda tenant, data: values.save(_BUDGET + tenant, data)
        )
        self._claiming = asyncio.Lock()
        self._kept: dict[str, tuple[str, bytes]] = {}
        self._lease_s = lease_s
        self._clock = clock
        self._complete_at_s = clock() + grace_s
        self._is_complete = False
        self._birth = uuid.uuid4().hex
        self._changes = 0
        self._instances: dict[str, Instance] = {}
        self._leases_s: dict[str, float] = {}
        self._tombstones: dict[str, tuple[int, float]] = {}
        self._quarantined: dict[str, float] = {}
        self._key = b""
        self._board: dict[str, tuple[bytes, float]] = {}
        self._watchers: set[asyncio.Future[None]] = set()
        # Of each watcher: the number of changes that it knows of, and how long it may be silent.
        self._knowing: dict[str, tuple[int, float]] = {}
        self._asked = asyncio.Condition()

    async def announce(self, instance: Instance) -> bool:
        """Adds an instance, or renews its lease; false when a newer incarnation has taken its place."""
        self._expire()
        known = self._instances.get(instance.id)
        newest = self._tombstones.get(instance.id, (-1, 0.0))[0] if known is None else known.incarnation
        if instance.incarnation < newest:
            return False
        self._instances[instance.id] = instance
        self._leases_s[instance.id] = self._clock() + self._lease_s
        # A load alone is no news: routers hear it on their channels, many times a second.
        if known is None or replace(known, load=Load()) != replace(instance, load=Load()):
            self._changed()
        return True

    async def withdraw(self, id: str, incarnation: int) -> None:
        """Removes an instance, unless a newer incarnation has taken its place."""
        known = self._instances.get(id)
        if known is not None and known.incarnation <= incarnation:
            self._remove(id)

    async def snapshot(self) -> View:
        """What it knows now."""
        self._expire()
        self._key = self._key or token_bytes(_KEY_BYTES)
        now_s = self._clock()
        quarantined = {fingerprint: until_s - now_s for fingerprint, until_s in self._quarantined.items()}
        version = (self._birth, self._changes)
        return View(version, dict(self._instances), self._is_complete, quarantined, self._key)

    async def quarantine(self, fingerprint: str, ttl_s: float) -> None:
        """Lets every router know of a request that takes engines with it, for so long; returns when they do."""
        self._quarantined[fingerprint] = self._clock() + ttl_s
        self._changed()
        changes = self._changes
        with suppress(TimeoutError):
            async with asyncio.timeout(TOLD_S), self._asked:
                await self._asked.wait_for(lambda: all(known >= changes for known, _ in self._knowing.values()))

    async def watch(self, version: Version | None, timeout_s: float, key: bytes = b"", watcher: str = "") -> View:
        """What it knows as soon as that differs from `version`, or after `timeout_s`.

        Args:
            version: What the watcher knows.
            timeout_s: When to answer without anything new.
            key: The watcher's, from the last directory; a new one goes on with the first that it hears of.
            watcher: Its name; "": nobody waits for it to know something.
        """
        self._key = self._key or key
        until_s = self._clock() + timeout_s
        if watcher:
            changes = version[1] if version is not None and version[0] == self._birth else -1
            self._knowing[watcher] = (changes, until_s + SILENT_S)
            async with self._asked:
                self._asked.notify_all()
        while True:
            self._expire()
            now_s = self._clock()
            if version != (self._birth, self._changes) or now_s >= until_s:
                return await self.snapshot()
            # What expires makes a change, too, and nothing else would wake the watcher for it.
            due_s = min(until_s, *self._leases_s.values(), *(() if self._is_complete else (self._complete_at_s,)))
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.add(change)
            try:
                async with asyncio.timeout(max(0.001, due_s - now_s)):
                    await change
            except TimeoutError:
                pass
            finally:
                self._watchers.discard(change)

    async def post(self, key: str, value: bytes, ttl_s: float) -> None:
        """Puts a value on the board, for so long."""
        self._board[key] = (value, self._clock() + ttl_s)

    async def board(self, prefix: str = "") -> dict[str, bytes]:
        """The values on the board whose keys start so."""
        self._expire()
        return {key: value for key, (value, _) in self._board.items() if key.startswith(prefix)}

    async def swap(self, expected: Mapping[str, bytes | None], values: Mapping[str, bytes | None]) -> bool:
        """Puts values on the board for good, all at once, if it holds what is expected; whether it did.

        None means that there is no value, or is to be none.
        """
        self._expire()
        if any(self._board.get(key, (None, 0.0))[0] != value for key, value in expected.items()):
            return False
        for key, value in values.items():
            if value is None:
                self._board.pop(key, None)
            else:
                self._board[key] = (value, math.inf)
        return True

    async def claim(self, claims: dict[str, Claim]) -> dict[str, Grant | None]:
        """Takes what a router replica says of tenants' budgets; what it may spend. See `Budgets.claim`.

        Raises:
            Unavailable: There is no place to keep it.
        """
        async with self._claiming:
            return await in_daemon_thread(lambda: self._budgets.claim(claims))

    async def keep(self, key: str, value: bytes) -> None:
        """Keeps a value past the directory's own end, in place of an earlier one of that key.

        Raises:
            Unavailable: There is no place to keep it.
        """
        await in_daemon_thread(lambda: self._values.save(key, value))
        self._kept[key] = (_digest(value), value)

    async def kept(self, key: str, known: str = "") -> tuple[str, bytes | None]:
        """The digest of the value of a key, empty where there is none; and the value, unless its digest is known.

        Raises:
            Unavailable: There is no place where it could be.
        """
        if key not in self._kept:
            value = await in_daemon_thread(lambda: self._values.load(key))
            if value is None:
                return "", None
            self._kept.setdefault(key, (_digest(value), value))
        digest, value = self._kept[key]
        return digest, None if digest == known else value

    def _expire(self) -> None:
        now_s = self._clock()
        for id in [id for id, until_s in self._leases_s.items() if until_s <= now_s]:
            self._remove(id)
        for id in [id for id, (_, until_s) in self._tombstones.items() if until_s <= now_s]:
            del self._tombstones[id]
        for fingerprint in [one for one, until_s in self._quarantined.items() if until_s <= now_s]:
            del self._quarantined[fingerprint]
        for watcher in [watcher for watcher, (_, until_s) in self._knowing.items() if until_s <= now_s]:
            del self._knowing[watcher]
        for key in [key for key, (_, until_s) in self._board.items() if until_s <= now_s]:
            del self._board[key]
        if not self._is_complete and now_s >= self._complete_at_s:
            self._is_complete = True
            self._changed()

    def _remove(self, id: str) -> None:
        instance = self._instances.pop(id)
        del self._leases_s[id]
        # An older incarnation that still lives somewhere must not come back in its place.
        self._tombstones[id] = (instance.incarnation, self._clock() + _TOMBSTONE_S)
        self._changed()

    def _changed(self) -> None:
        self._changes += 1
        for change in self._watchers:
            if not change.done():
                change.set_result(None)


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
