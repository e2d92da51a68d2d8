"""The vLLM engine: its life, from the boot to the end of its last process."""

import asyncio
from typing import TYPE_CHECKING

from engines.cached_chunks import CachedChunks
from engines.context import Context
from engines.contract import Answers, Capabilities, Load, Progress, PushEngine
from engines.errors import EngineDead, NotReady
from engines.registry import EngineSpec
from engines.requests import GenerateRequest
from engines.sink import Sink
from engines.vllm.boot import Boot
from engines.vllm.options import VllmOptions

if TYPE_CHECKING:
    from engines.vllm.runtime import Runtime


class VllmEngine(PushEngine):
    """One vLLM engine, with its core, and several ranks, in child processes."""

    def __init__(self, name: str, spec: EngineSpec, options: VllmOptions) -> None:
        self.name = name
        self.capabilities = Capabilities()
        self._boot = Boot(name, spec, options)
        self._ended: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether it has booted, and has not died or stopped since."""
        runtime = self._boot.runtime
        return runtime is not None and self._ended is None and runtime.is_alive

    async def start(self) -> None:
        """Boots vLLM, in a thread. Cancelling it ends the boot.

        Raises:
            EngineFailed: It cannot boot; the message says why and what to do.
            InvalidRequest: An option is wrong; the message names it.
            EngineDead: It was stopped before.
        """
        if self._ended is not None:
            raise EngineDead(f"The engine {self.name} was stopped.")
        try:
            runtime = await self._boot.run()
        except BaseException:
            await self.stop()
            raise
        self.capabilities = runtime.capabilities

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Fails what is running, and ends every process of it, also in the middle of the boot."""
        if self._ended is None:
            if self._boot.runtime is not None:
                self._boot.runtime.end_streams(EngineDead(f"The engine {self.name} was stopped."))
            self._ended = asyncio.get_running_loop().create_task(self._boot.end(timeout_s))
        # Whoever gives up waiting does not keep it from ending.
        await asyncio.shield(self._ended)

    async def sleep(self, level: int) -> None:
        """Puts vLLM to sleep, as `Engine.sleep` says."""
        await self._working().sleep.begin(level)

    async def wake(self) -> None:
        """Wakes vLLM."""
        await self._working().sleep.end()

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink, as `Engine.submit` says."""
        await self._working().submit(request, context, sink)

    @property
    def answers(self) -> Answers:
        """Token ids, their text, and vectors, scores and what else is pooled where the model makes any.

        Raises:
            NotReady: It still boots.
            EngineDead: It is finished.
        """
        return self._working().answers

    @property
    def steps(self) -> int:
        """Steps taken so far; grows as the engine works."""
        runtime = self._boot.runtime
        return runtime.steps if runtime is not None else 0

    @property
    def slots(self) -> int | None:
        """How many sequences one step works on at most; None before it is ready."""
        runtime = self._boot.runtime
        return runtime.slots if runtime is not None else None

    @property
    def cached_chunks(self) -> CachedChunks | None:
        """What it has in its KV cache; None where vLLM publishes no events, or to somebody else."""
        runtime = self._boot.runtime
        return runtime.cached_chunks if runtime is not None else None

    def progress(self, context: Context) -> Progress | None:
        """How far the stream of this context is, as known a second ago; the core is asked for the next time."""
        runtime = self._boot.runtime
        return runtime.progress(context) if runtime is not None else None

    def load(self) -> Load:
        """How busy it is now."""
        runtime = self._boot.runtime
        return runtime.load() if runtime is not None else Load()

    async def check_health(self) -> None:
        """Returns when it can work, as `Engine.check_health` says."""
        self._working()

    def _working(self) -> "Runtime":
        runtime = self._boot.runtime
        if self._ended is not None:
            raise EngineDead(f"The engine {self.name} was stopped.")
        if runtime is None:
            raise NotReady(f"The engine {self.name} is still booting.")
        if not runtime.is_alive:
            raise EngineDead(f"The engine {self.name} has died.")
        return runtime
