"""Instances that die at boot, or soon after it, again and again: each next one waits longer, and says why.

Serve starts a failed replica again at once, which on a node without weights, or with too little memory, is a boot of a
minute after another for good, and takes the CPU of those that work. What went wrong is remembered per model on the
directory's board, because no replica lives long enough to remember it.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from ray.exceptions import RayError

from actors.directory.client import Announcer, DirectoryClient
from actors.directory.known_instance import Instance
from deployments.model_settings import ModelSettings

FIRST_S = 1.0
"""What the instance waits that follows a second failure in a row: the first may be anything."""
MOST_S = 60.0
EARLY_S = 20.0
"""An instance that ends so soon after its boot has failed; one that lives longer makes its model sound again."""
_TTL_S = 1800.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failures:
    """What went wrong with a model's instances lately.

    Attributes:
        count: Failures in a row; those of replicas that started together count once.
        at_s: Unix time of the last one.
        reason: Of the last one.
    """

    count: int = 0
    at_s: float = 0.0
    reason: str = ""

    def wait_s(self, now_s: float) -> float:
        """How long the next instance waits from now on."""
        if self.count < 2:
            return 0.0
        pause_s: float = min(MOST_S, FIRST_S * 2.0 ** min(self.count - 2, 32))
        return max(0.0, self.at_s + pause_s - now_s)

    def and_another(self, reason: str, began_s: float, now_s: float) -> "Failures":
        """With one more, of an instance whose boot began then."""
        return Failures(self.count + 1 if began_s >= self.at_s else self.count, now_s, reason)


def board_key(model: ModelSettings) -> str:
    """Where the board has a model's failures: another version of the model starts anew."""
    version = hashlib.sha256(model.model_dump_json().encode()).hexdigest()[:16]
    return f"boots/{model.name}/{version}"


class BootBackoff:
    """One instance's part in it. What cannot be asked or told, because the directory is away, holds up nothing.

    Args:
        client: The way to the directory.
        instance: The instance, as it is shown while it waits.
        model: Its model.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        client: DirectoryClient,
        instance: Instance,
        model: ModelSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._instance = instance
        self._key = board_key(model)
        self._clock = clock
        self._began_s = clock()
        self._ready_s: float | None = None
        self._is_settled = False

    async def wait(self) -> None:
        """Returns when the instance may boot; it is announced as starting, with the reason, until then."""
        failures = await self._failures()
        wait_s = failures.wait_s(self._clock())
        if wait_s > 0:
            detail = (
                f"waits {wait_s:.0f} s before it boots: {failures.count} failed in a row, the last one with: "
                f"{failures.reason}"
            )
            _log.warning("The instance %s %s", self._instance.id, detail)
            waiting = replace(self._instance, detail=detail, since_s=self._clock())
            announcer = Announcer(self._client, lambda: waiting)
            announcer.start()
            try:
                await asyncio.sleep(wait_s)
            except BaseException:
                await announcer.withdraw()
                raise
            # The actor goes on with it.
            await announcer.stop()
        self._began_s = self._clock()

    async def failed(self, reason: str) -> None:
        """It could not boot."""
        self._is_settled = True
        failures = (await self._failures()).and_another(reason, self._began_s, self._clock())
        _log.warning("The instance %s failed, as %d in a row: %s", self._instance.id, failures.count, reason)
        await self._remember(failures)

    def booted(self) -> None:
        """It works from now on."""
        self._ready_s = self._clock()

    async def lives(self) -> None:
        """It still works."""
        if not self._is_settled and self._ready_s is not None and self._clock() - self._ready_s >= EARLY_S:
            self._is_settled = True
            if (await self._failures()).count:
                await self._remember(Failures())

    async def ended(self, reason: str) -> None:
        """It ended by itself, maybe soon after its boot."""
        if not self._is_settled and self._ready_s is not None and self._clock() - self._ready_s < EARLY_S:
            await self.failed(f"It ended within {self._clock() - self._ready_s:.0f} s of its boot. {reason}")

    async def _failures(self) -> Failures:
        try:
            value = (await self._client.board(self._key)).get(self._key)
        except (RayError, TimeoutError, ValueError):
            return Failures()
        return Failures(**json.loads(value)) if value is not None else Failures()

    async def _remember(self, failures: Failures) -> None:
        try:
            await self._client.post(self._key, json.dumps(asdict(failures)).encode(), _TTL_S)
        except (RayError, TimeoutError, ValueError) as error:
            _log.info("The directory cannot be reached: %s", type(error).__name__)
