"""Tenants and their keys from a place that may change: a file, or what was sent to the fleet."""

import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path

from deployments.followed_file import READ_S, DiskReader, Follower, Mark, mark_of
from deployments.settings_file.problems import SettingsFileError, read_text
from deployments.tenants import keys
from deployments.tenants.key_file import MAX_BYTES, Holders, parse_keys
from deployments.tenants.keys import Keys
from engines.errors import Unavailable

logger = logging.getLogger(__name__)

PUSHED = "keys"
"""Under this the directory keeps the file that `penstock keys push` sent."""

Pushed = Callable[[str], Awaitable[tuple[str, bytes | None]]]
"""Asks for the file that was sent: its digest, empty where there is none; and its content, unless its digest was given.

Raises Unavailable.
"""


async def nothing_pushed(_: str) -> tuple[str, bytes | None]:
    """What asks where nothing can be sent to: there is none."""
    return "", None


class FollowedKeys(Keys):
    """Keys that are read again when they change; what was read last goes on to hold while that cannot be done.

    Args:
        place: What messages call the place where they are.
    """

    def __init__(self, place: str) -> None:
        super().__init__(is_open=False, problem=f"{place} was not read yet.")
        self._place = place
        self._follower: Follower | None = None

    async def start(self) -> None:
        """Reads them, and follows their place from now on."""
        await self._look()
        self._follower = Follower(self._look, keys.LOOK_S)

    async def stop(self) -> None:
        """Follows it no more."""
        if self._follower is not None:
            await self._follower.stop()

    @abstractmethod
    async def _read(self) -> Holders | None:
        """Who holds which key; None: as the last time.

        Raises:
            SettingsFileError: Something in it is wrong, or it cannot be read.
            TimeoutError: Nothing came in time.
            Unavailable: Nobody answers there.
        """

    @abstractmethod
    def _forget(self) -> None:
        """Reads them again also if they have not changed."""

    async def _look(self) -> None:
        problem = ""
        try:
            holders = await self._read()
        except (SettingsFileError, TimeoutError, Unavailable) as error:
            self._forget()
            problem = str(error) or f"{self._place}: cannot be read: nothing came for {READ_S:g} s"
        else:
            if holders is None:
                return
            # Also when it holds none any more: the last key was taken out.
            self.replace(holders)
            if not holders:
                problem = f"{self._place}: no tenant has a key, so nobody is let in"
        if problem and problem != self.problem:
            logger.error("The keys cannot be used: %s", problem)
        elif self.problem and not problem:
            logger.info("The keys were read: %s", self._place)
        self.problem = problem


class KeysOfFile(FollowedKeys):
    """Tenants and their keys in a file.

    Args:
        path: The file, on the node where the replica runs.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._seen: Mark | None = None
        self._reader = DiskReader(lambda: _read_file(self._path, self._seen))

    async def _read(self) -> Holders | None:
        read = await self._reader.read()
        if read is None:
            return None
        self._seen, holders = read
        return holders

    def _forget(self) -> None:
        self._seen = None


class PushedKeys(FollowedKeys):
    """Tenants and their keys as `penstock keys push` sent them to the fleet.

    Args:
        pushed: Asks for them.
    """

    def __init__(self, pushed: Pushed) -> None:
        super().__init__("what `penstock keys push` sent")
        self._pushed = pushed
        self._digest = ""

    async def _read(self) -> Holders | None:
        digest, content = await self._pushed(self._digest)
        if not digest:
            raise Unavailable("No keys were sent yet: `penstock keys push KEYS.yaml`.")
        if content is None:
            return None
        holders = parse_keys(content.decode(), self._place)
        self._digest = digest
        return holders

    def _forget(self) -> None:
        self._digest = ""


_FileRead = tuple[Mark | None, Holders]


def _read_file(path: Path, seen: Mark | None) -> _FileRead | None:
    """Who holds which key; None: the file is the one that was seen."""
    mark = mark_of(path)
    if mark is not None and mark == seen:
        return None
    return mark, parse_keys(read_text(path, MAX_BYTES), str(path))
