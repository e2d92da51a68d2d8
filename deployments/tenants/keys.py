"""Where a router replica has its keys from: nowhere, an environment variable, or a place that may change."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from deployments.tenants.key_file import Holder, Holders, hash_of
from deployments.tenants.tenant import ANYBODY, EVERYTHING, KeyHash, Tenant
from engines.context import Context
from engines.errors import Forbidden, Unauthorized, Unavailable

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often the place is looked at where keys come from."""


class NoKeys(Unavailable):
    """Keys are asked for, and the server has none: nobody is let in."""

    code = "no_keys"


class Keys:
    """Who holds which key, now; and what runs for them, because a key that is taken away ends that.

    Attributes:
        is_open: Whether no key is asked for.
        problem: What is wrong with where they come from; empty: nothing. Those that were read before go on to hold.
    """

    def __init__(self, *, is_open: bool, problem: str = "") -> None:
        self.is_open = is_open
        self.problem = problem
        self._holders: Holders = {}
        self._running: dict[str, set[Context]] = {}

    @property
    def is_ready(self) -> bool:
        """Whether anybody can be let in."""
        return self.is_open or bool(self._holders)

    def holder(self, key: bytes | None) -> Holder:
        """Who comes with this key; None: without one.

        Raises:
            NoKeys: There are no keys to tell by.
            Unauthorized: It is none of them, or past its end.
        """
        if self.is_open:
            return _ANYBODY
        if not self._holders:
            raise NoKeys("The server cannot read its keys, and lets nobody in until it can.", retry_after_s=LOOK_S)
        if key is None:
            raise Unauthorized("No API key was given. Send it as `Authorization: Bearer KEY`.")
        # Who guesses would have to guess the beginning of a hash by the time that a look-up takes.
        holder = self._holders.get(hash_of(key))
        if holder is None:
            raise Unauthorized("The API key is not valid.")
        if holder.key.is_expired(datetime.now(UTC)):
            raise Unauthorized("The API key has expired.")
        return holder

    def holder_of(self, sha256: str) -> Holder | None:
        """Who holds the key of this hash now; None: nobody does, or it has expired."""
        holder = _ANYBODY if self.is_open else self._holders.get(sha256)
        return None if holder is None or holder.key.is_expired(datetime.now(UTC)) else holder

    def tenant(self, name: str) -> Tenant:
        """The tenant of a name, for callers who need no key.

        Raises:
            NoKeys: There are none to tell by.
            Forbidden: None is called so, or it has no key.
        """
        if not self._holders:
            raise NoKeys("The server has no tenants: they are in the file that http.keys.file names.")
        for holder in self._holders.values():
            if holder.tenant.name == name:
                return holder.tenant
        raise Forbidden(f"tenant: nobody who holds a key is called {name!r}.", param="tenant")

    def replace(self, holders: Holders) -> None:
        """From now on these hold; what runs for keys that are gone ends."""
        self._holders = holders
        for gone in self._running.keys() - holders.keys():
            for context in list(self._running[gone]):
                context.kill()

    @contextmanager
    def running(self, holder: Holder | None, context: Context) -> Iterator[None]:
        """While a request runs, its context is killed when its key is taken away; None: it came without one."""
        if self.is_open or holder is None:
            yield
            return
        key = holder.key.sha256
        self._running.setdefault(key, set()).add(context)
        try:
            yield
        finally:
            running = self._running[key]
            running.discard(context)
            if not running:
                del self._running[key]

    async def start(self) -> None:
        """Begins to follow where they come from."""

    async def stop(self) -> None:
        """Follows it no more."""


class KeysOfEnvironment(Keys):
    """One tenant, `default`, that may do everything; its keys are in an environment variable.

    A variable that is set and empty, or that the settings name and that is not set, lets nobody in.

    Args:
        variable: Its name: keys, separated by commas.
        is_asked_for: Whether the settings name it.
    """

    def __init__(self, variable: str, *, is_asked_for: bool) -> None:
        given = os.environ.get(variable)
        super().__init__(is_open=given is None and not is_asked_for)
        keys = [KeyHash(sha256=hash_of(key.encode())) for key in listed_keys(given or "")]
        tenant = Tenant(name="default", keys=keys, scopes=EVERYTHING)
        self.replace({key.sha256: Holder(tenant, key) for key in keys})
        if not self.is_ready:
            self.problem = f"The environment variable {variable} holds no key."


def listed_keys(text: str) -> list[str]:
    """The keys in the value of an environment variable, separated by commas."""
    return [key.strip() for key in text.split(",") if key.strip()]


_ANYBODY = Holder(ANYBODY, KeyHash(sha256="0" * 64))
