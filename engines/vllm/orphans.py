"""vLLM's core must not outlive its host: killed without notice, the host would leave it on the GPU for good."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

from vllm.v1.engine.core import EngineCoreProc


def run_watched_core(*args: Any, **kwargs: Any) -> None:
    """The core's process: as vLLM runs it, and ends it when the process that started it is gone."""
    host = multiprocessing.parent_process()
    assert host is not None

    def watch() -> None:
        connection.wait([host.sentinel])
        os._exit(1)  # The ranks below follow by themselves.

    threading.Thread(target=watch, name="host-watch", daemon=True).start()
    EngineCoreProc.run_engine_core(*args, **kwargs)


@contextmanager
def watched_core() -> Iterator[None]:
    """While vLLM starts its core: lets it run `run_watched_core`. vLLM has no option for it."""
    original = EngineCoreProc.run_engine_core
    EngineCoreProc.run_engine_core = staticmethod(run_watched_core)
    try:
        yield
    finally:
        EngineCoreProc.run_engine_core = staticmethod(original)
