"""vLLM's core, in a process that imports vLLM while its host does, and not after it.

Most of a boot is imports: first the host's, then, when vLLM knows its configuration and starts its core, the same again
in the core's process. So that process is started first. When vLLM comes to start its core, the process is handed the
function and the arguments with which vLLM would have started a new one, and the environment.

It is used only where a new one would find itself in the same environment, as far as that is read before vLLM's core
begins: otherwise vLLM starts its core as it always does.

`vllm.v1.engine.utils.get_mp_context`, by which vLLM's frontend makes the process of its core, is not promised. Where it
is gone, vLLM is left alone.
"""

import atexit
import gc
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Self

from engines.registry import NodePart
from engines.vllm.environment import early_environment, unlike
from engines.vllm.host import ends_with_host
from engines.vllm.options import VllmOptions

logger = logging.getLogger(__name__)

_NAME = "EarlyCore"
"""Of a process that is nobody's core yet."""
_CUDA_COMPATIBILITY = "VLLM_ENABLE_CUDA_COMPATIBILITY"


class EarlyCore:
    """The process; a context manager, at whose end it is gone unless vLLM has taken it.

    Enter it in the thread that goes on for as long as the core is to live: the kernel kills the core at its end.
    """

    def __init__(self, options: VllmOptions, part: NodePart | None = None) -> None:
        self._options = options
        self._part = part
        self._process: BaseProcess | None = None
        self._work: Connection | None = None
        self._started_in: dict[str, str] = {}

    def __enter__(self) -> Self:
        # The folders of CUDA's compatibility libraries count for what is started after vLLM was imported.
        if find_spec("vllm") is not None and os.environ.get(_CUDA_COMPATIBILITY, "0") == "0":
            self._start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    @contextmanager
    def offered(self) -> Iterator[None]:
        """While vLLM starts its core, in its environment: lets it take this one."""
        from vllm.v1.engine import utils

        get_context = getattr(utils, "get_mp_context", None)
        if get_context is None:
            logger.warning("vLLM has moved get_mp_context of vllm.v1.engine.utils: its core imports after its host.")
            yield
            return
        utils.get_mp_context = lambda: _Offering(get_context(), self)
        try:
            yield
        finally:
            utils.get_mp_context = get_context

    def take(self, target: Callable[..., object], name: str, kwargs: dict[str, Any]) -> BaseProcess | None:
        """The process, which runs this as a new one of this name would; None: it cannot, or is taken already."""
        process, work = self._process, self._work
        if process is None or work is None:
            return None
        try:
            # Sent when it has imported everything: a new one would have to, too.
            changed = unlike(work.recv(), self._started_in)
            if changed:
                logger.info("vLLM's core is started anew, for these variables have changed: %s", ", ".join(changed))
                self._end()
                return None
            work.send((name, _changes(self._started_in)))
            work.send((target, kwargs))
        except (EOFError, OSError, RuntimeError, TypeError) as error:
            # It has ended; or there is a lock or queue among the arguments, which only a new process can have.
            logger.info("vLLM's core is started anew: %r", error)
            self._end()
            return None
        work.close()
        atexit.unregister(self._end)
        self._process = self._work = None
        process.name = name
        return process

    def kill(self) -> None:
        """Kills it, if vLLM has not taken it. May be called in any thread."""
        process = self._process
        if process is not None:
            process.kill()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._work, theirs = context.Pipe()
        process = context.Process(target=_import_and_run, args=(theirs,), name=_NAME)
        # Left to itself, the interpreter would wait for its end; this comes first.
        atexit.register(self._end)
        with early_environment(self._options, self._part):
            self._started_in = dict(os.environ)
            process.start()
        self._process = process
        # Sending to a process that is dead is to fail.
        theirs.close()

    def _end(self) -> None:
        atexit.unregister(self._end)
        process, self._process = self._process, None
        if self._work is not None:
            self._work.close()
            self._work = None
        if process is not None:
            process.kill()
            process.join()


def _import_and_run(work: Connection) -> None:
    """The process: imports what vLLM's core needs, then does what it is told."""
    if not ends_with_host():
        return
    import engines.vllm.orphans  # noqa: F401 - the core, and what of ours runs in it

    run_when_told(work)


def run_when_told(work: Connection) -> None:
    """Tells its environment, waits for the one to take on and the function to call, and calls it."""
    try:
        work.send(dict(os.environ))
        name, changes = work.recv()
    except (EOFError, OSError):
        return  # Its host wants it no more.
    multiprocessing.current_process().name = name
    for variable, value in changes.items():
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value
    target, kwargs = work.recv()
    work.close()
    target(**kwargs)


def _changes(before: dict[str, str]) -> dict[str, str | None]:
    """What is otherwise in the environment than before; None: gone.

    No more: a process whose first variables are set anew cannot change its title any more (`setproctitle`).
    """
    names = before.keys() | os.environ.keys()
    return {name: os.environ.get(name) for name in names if before.get(name) != os.environ.get(name)}


class _Offering:
    """As vLLM's context of multiprocessing, but that its first process may be the early one."""

    def __init__(self, context: Any, early: EarlyCore) -> None:
        self._context = context
        self._early = early

    def Process(self, *, target: Callable[..., object], name: str, kwargs: dict[str, Any]) -> "_Core":  # noqa: N802
        """As a context of multiprocessing says."""
        return _Core(self._early, self._context.Process(target=target, name=name, kwargs=kwargs), target, name, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class _Core:
    """A process that is the early one or a new one. Which, is known when it starts: vLLM changes things until then."""

    def __init__(
        self, early: EarlyCore, new: BaseProcess, target: Callable[..., object], name: str, kwargs: dict[str, Any]
    ) -> None:
        self._early = early
        self._process = new
        self._target, self._name, self._kwargs = target, name, kwargs

    def start(self) -> None:
        """Starts it."""
        early = self._early.take(self._target, self._name, self._kwargs)
        if early is None:
            self._process.start()
        else:
            self._process = early
        # Due since the imports (`few_collections`), and now nothing waits for it: the core begins meanwhile.
        gc.collect()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)
