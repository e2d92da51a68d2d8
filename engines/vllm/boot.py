"""Booting vLLM without blocking the event loop, and ending it with all of its processes.

vLLM takes a minute to boot: it imports half of the machine learning world, then starts a process for its core, which
starts one for each rank if there are several. All of that happens in a thread of its own, which cannot be interrupted;
what a cancelled boot leaves is ended by killing its processes, on which the thread fails. It stays as long as what it
booted: the kernel kills vLLM's core when the thread that started it ends.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from engines.errors import EngineFailed, PenstockError
from engines.registry import EngineSpec
from engines.vllm.early_core import EarlyCore
from engines.vllm.environment import quiet_environment
from engines.vllm.few_collections import few_collections
from engines.vllm.options import VllmOptions
from engines.vllm.processes import ProcessTree

if TYPE_CHECKING:
    from engines.vllm.runtime import Runtime

_POLL_S = 0.1
_KILL_S = 2.0
"""Kept of a deadline for killing what has not ended by itself."""


class Boot:
    """One boot, and the runtime that comes out of it.

    Attributes:
        runtime: What was booted, once it works.
    """

    def __init__(self, name: str, spec: EngineSpec, options: VllmOptions) -> None:
        self._name = name
        self._spec = spec
        self._options = options
        self.runtime: Runtime | None = None
        self._built: Runtime | None = None
        self._error: Exception | None = None
        self._abandoned = threading.Event()
        self._processes = ProcessTree()
        self._early = EarlyCore(options, spec.part)
        self._idle = threading.Event()
        self._idle.set()
        self._ended = threading.Event()

    async def run(self) -> "Runtime":
        """Boots.

        Raises:
            PenstockError: It failed; the message says why.
        """
        self._idle.clear()
        await _in_thread(self._run, then=self._ended.wait)
        if self._error is not None:
            raise self._error
        assert self._built is not None
        await self._built.open()
        self.runtime = self._built
        return self.runtime

    async def end(self, timeout_s: float) -> None:
        """Ends the boot, or what was booted, and every process of it."""
        self._abandoned.set()
        await _in_thread(lambda: self._end(timeout_s))
        self.runtime = self._built = None

    def _run(self) -> None:
        try:
            self._built = self._boot()
        except PenstockError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - whatever vLLM raises is why the engine cannot boot
            self._error = could_not_boot(self._options, error)
        self._idle.set()
        if self._abandoned.is_set():
            # Whoever ended it may have given up on this thread.
            self._end(_KILL_S)

    def _boot(self) -> "Runtime":
        quiet_environment()
        with self._early, few_collections():
            import_vllm(self._name)
            from engines.vllm.runtime import Runtime

            if self._abandoned.is_set():
                raise EngineFailed(f"The engine {self._name} was stopped while it booted.")
            return Runtime(self._name, self._spec, self._options, self._processes, self._early)

    def _end(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        # A boot under way fails once its processes are gone; it may be about to start another.
        while not self._idle.is_set() and time.monotonic() < deadline:
            self._early.kill()
            self._processes.kill()
            self._idle.wait(_POLL_S)
        if self._built is not None:
            self._built.close(timeout_s=max(0.0, deadline - time.monotonic() - _KILL_S))
        self._processes.kill()
        self._processes.wait_gone(max(0.0, deadline - time.monotonic()))
        self._ended.set()


async def _in_thread(work: Callable[[], None], then: Callable[[], object] | None = None) -> None:
    """Runs the work in a thread of its own, which goes on with `then` when nobody waits any more."""
    # Not the loop's own executor: closing the loop, or leaving the interpreter, would wait for it.
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(finished.set)
        if then is not None:
            then()

    threading.Thread(target=run, daemon=True).start()
    await finished.wait()


def import_vllm(name: str) -> None:
    """Imports vLLM, for an engine of this name.

    Raises:
        EngineFailed: It is not installed; the message says how to install it.
    """
    quiet_environment()
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise EngineFailed(
            f"The engine {name} needs vLLM, which is not installed here: "
            "pip install 'penstock[cpu]' or, with an NVIDIA GPU, 'penstock[gpu]'."
        ) from error


def could_not_boot(options: VllmOptions, error: Exception) -> EngineFailed:
    """The error that tells of what vLLM raised while it started; that is its cause."""
    failed = EngineFailed(f"vLLM could not boot {options.model!r}: {_reason(error)}")
    failed.__cause__ = error
    return failed


def _reason(error: BaseException) -> str:
    """What an error says, or at least its name: some of vLLM's say nothing."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
