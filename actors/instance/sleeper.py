"""An engine that sleeps once nothing was asked of it for a while, and wakes before its next work.

Asleep it has given up the memory of its accelerator, and keeps its processes: waking takes seconds where a boot takes
a minute. Whatever needs the model waits for it; what needs the tokenizer alone does not.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from actors.settings import SleepSettings
from engines.cached_chunks import CachedChunks
from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.contract import Engine, Progress
from engines.errors import Cancelled, Draining, EngineDead
from engines.operators.operator import Transparent, end_before_start
from engines.requests import GenerateRequest
from engines.sink import Sink

logger = logging.getLogger(__name__)

WAKE_S = {1: 3.0, 2: 10.0}
"""What waking takes, by level, before it was seen: guesses, of the size of what vLLM's authors report."""


class Sleeper(Transparent):
    """Puts the engine that it is around to sleep, and wakes it.

    It falls asleep only while it has nothing to do, so that nothing is lost by it. One that does not fall asleep, or
    does not wake, is finished: what waited for it is refused first, as by an instance that drains, since the engine has
    not seen it and cannot have died of it.

    Args:
        settings: When it sleeps, and how deeply; None: never.
        heartbeat_s: Between two ticks.
        fell_asleep: Called when it did: what it had cached is gone.
        died: Called where it did not fall asleep, or did not wake.

    Attributes:
        is_awake: Whether what comes is worked on at once.
        wake_s: What waking takes: as it was the last time, or a guess; 0 where it never sleeps.
    """

    def __init__(
        self,
        settings: SleepSettings | None,
        heartbeat_s: float,
        fell_asleep: Callable[[], None],
        died: Callable[[EngineDead], None],
    ) -> None:
        self.is_awake = True
        self.wake_s = 0.0 if settings is None else WAKE_S[settings.level]
        self._after_s = math.inf if settings is None else settings.after_s
        self._level = 0 if settings is None else settings.level
        self._timeout_s = 0.0 if settings is None else settings.timeout_s
        self._heartbeat_s = heartbeat_s
        self._fell_asleep = fell_asleep
        self._died = died
        self._idle_ticks = 0
        self._at_work = 0
        self._falling: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[None] | None = None
        # What those wait for that came while it was not awake.
        self._awake: asyncio.Future[None] | None = None
        self._waiting: set[Context] = set()
        self._dead: EngineDead | None = None

    def watching(self, engine: Engine) -> Engine:
        """The engine as it is to be used: itself, where it never sleeps."""
        return engine if math.isinf(self._after_s) else self.around(engine)

    @property
    def ready(self) -> bool:
        """Whether it has booted, and can be woken if it sleeps."""
        return self._dead is None and self.inner.ready

    @property
    def cached_chunks(self) -> CachedChunks | None:
        """The inner engine's."""
        return self.inner.cached_chunks

    def tick(self, *, may_sleep: bool) -> None:
        """A heartbeat has passed.

        Heartbeats are counted rather than seconds: a loop that stood still has taken no work meanwhile, and yet there
        may have been some.

        Args:
            may_sleep: Whether the instance has no work, of whatever kind, and may get some.
        """
        self._idle_ticks = self._idle_ticks + 1 if may_sleep and self.is_awake else 0
        if self._idle_ticks * self._heartbeat_s < self._after_s or self._at_work:
            return
        load = self.inner.load()
        if self.ready and not load.running + load.queued:
            self.is_awake = False
            self._falling = asyncio.get_running_loop().create_task(self._fall_asleep())

    @contextmanager
    def kept_awake(self) -> Iterator[None]:
        """It does not fall asleep meanwhile; one that sleeps is not woken."""
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink, once it is awake; returns once the request is accepted.

        Raises:
            Draining: It does not wake.
            PenstockError: As the inner engine says.
        """
        self._idle_ticks = 0
        with self.kept_awake():
            if not self.is_awake:
                try:
                    await self._until_awake(context)
                except Cancelled:
                    if context.is_killed:
                        raise
                    end_before_start(request, self.name, sink)
                    return
            await self.inner.submit(request, context, sink)

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream; what runs the model, once it is awake. Raises what `submit` raises."""
        if not request.runs_model:
            return await self.inner.call(request, context)
        self._idle_ticks = 0
        with self.kept_awake():
            if not self.is_awake:
                await self._until_awake(context)
            return await self.inner.call(request, context)

    def progress(self, context: Context) -> Progress | None:
        """How far the stream of this context is; one that waits for the engine to wake waits, and does not hang."""
        return Progress(0, scheduled=False) if context in self._waiting else self.inner.progress(context)

    async def check_health(self) -> None:
        """Returns when it can work, or be woken. Raises EngineDead when it did not wake."""
        if self._dead is not None:
            raise self._dead
        await self.inner.check_health()

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Releases everything within the deadline, asleep or not; what waits for it to wake is refused. Idempotent."""
        if self._dead is None:
            self._dead = EngineDead(f"The engine {self.name} was stopped.")
        for changing in (self._falling, self._waking):
            if changing is not None:
                changing.cancel()
        self._refuse()
        await self.inner.stop(timeout_s)

    async def _until_awake(self, context: Context) -> None:
        """Returns when it is awake; wakes it, if nobody does yet.

        Raises:
            Cancelled: The context was stopped.
            Draining: It does not wake.
        """
        if context.is_stopped:
            raise context.cancellation()
        if self._dead is not None:
            raise self._refusal()
        loop = asyncio.get_running_loop()
        if self._awake is None:
            self._awake = loop.create_future()
            # Nobody need wait for it any more when it fails.
            self._awake.add_done_callback(lambda awake: awake.cancelled() or awake.exception())
            self._waking = loop.create_task(self._wake())
        self._waiting.add(context)
        try:
            await context.unless_stopped(asyncio.shield(self._awake))
        finally:
            self._waiting.discard(context)

    async def _fall_asleep(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.inner.sleep(self._level)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody knows what is left of the engine
            await self._fail("fall asleep", error)
            return
        logger.info("The engine %s sleeps.", self.name)
        self._fell_asleep()

    async def _wake(self) -> None:
        assert self._falling is not None
        await asyncio.wait({self._falling})
        if self._dead is not None:
            return
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.inner.wake()
        except Exception as error:  # noqa: BLE001 - likewise
            await self._fail("wake", error)
            return
        self.wake_s = time.monotonic() - began_s
        logger.info("The engine %s is awake, after %.2f s.", self.name, self.wake_s)
        self.is_awake = True
        self._idle_ticks = 0
        awake, self._awake = self._awake, None
        assert awake is not None
        awake.set_result(None)

    async def _fail(self, what: str, error: Exception) -> None:
        why = f"within {self._timeout_s:g} s" if isinstance(error, TimeoutError) else f"{error!r}"
        self._dead = EngineDead(f"The engine {self.name} did not {what}: {why}.")
        self._refuse()
        # In this order, so that none of them is taken for what the engine died of.
        while self._waiting:  # noqa: ASYNC110 - they are told, and gone in a turn or two
            await asyncio.sleep(0)
        self._died(self._dead)

    def _refuse(self) -> None:
        awake, self._awake = self._awake, None
        if awake is not None:
            awake.set_exception(self._refusal())

    def _refusal(self) -> Draining:
        return Draining(f"The instance {self.name} takes no new work: its engine does not wake.", instance=self.name)
