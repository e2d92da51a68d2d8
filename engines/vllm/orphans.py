"""vLLM's core and ranks must not outlive their host: killed without notice, it would leave them on the GPU for good."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from engines.vllm.few_collections import few_collections
from engines.vllm.host import ends_with_host
from engines.vllm.step_record import StepWriter

with few_collections():  # In a new process of vLLM this is what imports it.
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.executor.multiproc_executor import WorkerProc

    from engines.vllm.scheduler import prepare_core

_rank_main = WorkerProc.worker_main


def run_core_with_host(record: Path, *args: Any, local_dp_rank: int = 0, **kwargs: Any) -> None:
    """The core's process: as vLLM runs it, and killed by the kernel when the thread that started it ends.

    By the kernel (Linux: `PR_SET_PDEATHSIG` of prctl(2)), because a core that hangs does nothing by itself any more.
    So are the ranks below it. Its scheduler becomes ours on the way (see `engines.vllm.scheduler`).

    Args:
        record: The file of the record that takes which requests its steps take up.
        args: vLLM's.
        local_dp_rank: Which of this host's cores it is.
        kwargs: vLLM's.
    """
    if not ends_with_host():
        return
    _leave_imports_alone()
    prepare_core(StepWriter(record, local_dp_rank))
    try:
        with ranks_end_with_host():
            EngineCoreProc.run_engine_core(*args, local_dp_rank=local_dp_rank, **kwargs)
    finally:
        # At its end the interpreter would look through all objects of the thousands of modules for cycles: seconds.
        gc.freeze()


def run_rank_with_host(*args: Any, **kwargs: Any) -> None:
    """A rank's process, likewise: vLLM's own hears of the end of its host only between two steps."""
    if ends_with_host():
        _leave_imports_alone()
        _rank_main(*args, **kwargs)


def _leave_imports_alone() -> None:
    """Takes what was imported out of later garbage collections, as vLLM does when it has made its core.

    For which it imports more, and collects again and again: otherwise two thirds of the time that this takes.
    """
    gc.freeze()


@contextmanager
def ranks_end_with_host() -> Iterator[None]:
    """While vLLM starts ranks: lets them run `run_rank_with_host`; the thread that starts them must live as long."""
    WorkerProc.worker_main = staticmethod(run_rank_with_host)
    try:
        yield
    finally:
        WorkerProc.worker_main = staticmethod(_rank_main)


@contextmanager
def core_ends_with_host(record: Path) -> Iterator[None]:
    """While vLLM starts its core: lets it run `run_core_with_host` with this record. vLLM has no option for it.

    The thread that starts it must live as long as the core is to live.
    """
    original = EngineCoreProc.run_engine_core
    EngineCoreProc.run_engine_core = staticmethod(partial(run_core_with_host, record))
    try:
        yield
    finally:
        EngineCoreProc.run_engine_core = staticmethod(original)
