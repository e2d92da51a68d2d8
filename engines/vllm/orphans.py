"""vLLM's core must not outlive its host: killed without notice, the host would leave it on the GPU for good."""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm.v1.engine.core import EngineCoreProc

from engines.vllm.scheduler import prepare_core

_PR_SET_PDEATHSIG = 1


def run_core_with_host(*args: Any, **kwargs: Any) -> None:
    """The core's process: as vLLM runs it, and killed by the kernel when the thread that started it ends.

    By the kernel (Linux: `PR_SET_PDEATHSIG` of prctl(2)), because a core that hangs does nothing by itself any more.
    The ranks below follow their core. Its scheduler becomes ours on the way (see `engines.vllm.scheduler`).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        host = multiprocessing.parent_process()
        if host is not None and host.pid != os.getppid():
            return  # It was too late: nobody wants this core any more.
    prepare_core()
    try:
        EngineCoreProc.run_engine_core(*args, **kwargs)
    finally:
        # At its end the interpreter would look through all objects of the thousands of modules for cycles: seconds.
        gc.freeze()


@contextmanager
def core_ends_with_host() -> Iterator[None]:
    """While vLLM starts its core: lets it run `run_core_with_host`. vLLM has no option for it.

    The thread that starts it must live as long as the core is to live.
    """
    original = EngineCoreProc.run_engine_core
    EngineCoreProc.run_engine_core = staticmethod(run_core_with_host)
    try:
        yield
    finally:
        EngineCoreProc.run_engine_core = staticmethod(original)
