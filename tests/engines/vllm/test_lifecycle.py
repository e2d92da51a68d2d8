"""The life of an engine: what it leaves behind is nothing, however it ends."""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from engines.context import Context
from engines.errors import Cancelled, EngineDead, EngineFailed, InvalidRequest, NotReady, PenstockError
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import Recorder, ask, counting, eventually
from tests.engines.vllm.booted import DEMO_OPTIONS, POISON, POISON_SEED, demo_engine, make_vllm
from tests.lazily import needs

needs("vllm", "its life is what this is about")

BOOT_DEADLINE_S = 1200.0


def descendants() -> set[psutil.Process]:
    """Every process below this one, but for Python's own tracker of shared memory, which stays."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("resource_tracker" in part for part in process.cmdline()):
                found.add(process)
    return found


def cores(processes: set[psutil.Process]) -> set[psutil.Process]:
    """Those in which vLLM's core has begun."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if "EngineCore" in process.name():
                found.add(process)
    return found


def alive(processes: set[psutil.Process]) -> list[str]:
    """Those that still run; one that has exited, and waits to be reaped by whoever inherited it, does not."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.name()} {process.status()}")
    return found


async def gone(processes: set[psutil.Process]) -> None:
    """Returns when all of them have ended; fails naming those that have not."""
    try:
        await eventually(lambda: not alive(processes))
    except AssertionError:
        pytest.fail(f"still there: {alive(processes)}")


class Witness(Recorder):
    """Notes how far all requests were when its own failed."""

    def __init__(self, progress: Callable[[], dict[str, bool]]) -> None:
        super().__init__()
        self._progress = progress
        self.told: dict[str, bool] = {}

    def fail(self, error: PenstockError) -> None:
        self.told = self._progress()
        super().fail(error)


async def test_before_the_boot() -> None:
    engine = make_vllm("vllm-1")
    assert not engine.ready
    with pytest.raises(NotReady):
        await engine.check_health()
    with pytest.raises(NotReady):
        await engine.submit(counting(1, 5), Context(), Recorder())
    await engine.stop()
    await engine.stop()
    with pytest.raises(EngineDead):
        await engine.start()


async def test_wrong_options_are_named_at_start() -> None:
    before = descendants()
    with pytest.raises(InvalidRequest, match="'enable_lora'"):
        await make_vllm("vllm-1", engine_args={"enable_loras": True}).start()
    with pytest.raises(EngineFailed, match="nowhere"):
        await make_vllm("vllm-1", model="/nowhere/model").start()
    assert descendants() <= before  # Those of other tests may end.


async def test_stop_while_vllm_is_imported() -> None:
    before = descendants()
    engine: VllmEngine = make_vllm("vllm-1", model="demo", enforce_eager=True)
    boot = asyncio.create_task(engine.start())
    await eventually(lambda: bool(descendants() - before))  # what is to become the core
    started = descendants() - before
    await engine.stop()
    with pytest.raises(EngineFailed):
        await boot
    await gone(started)


async def test_stop_while_the_core_boots() -> None:
    before = descendants()
    engine: VllmEngine = make_vllm("vllm-1", model="demo", enforce_eager=True)
    boot = asyncio.create_task(engine.start())
    await eventually(lambda: bool(cores(descendants() - before)))
    for core in cores(descendants() - before):
        core.suspend()  # It is not to be done before it is stopped.
    started = descendants() - before
    await engine.stop()
    with pytest.raises(EngineFailed):
        await boot
    assert not engine.ready
    await gone(started)


async def test_death_is_noticed_and_leaves_nothing() -> None:
    """Of a request that has waited for long, and is the end of the core in the first step that works on it."""
    before = descendants()
    options = DEMO_OPTIONS | {"max_num_seqs": 2, "engine_args": POISON}
    engine = make_vllm("vllm-0", **options)
    boot = asyncio.create_task(engine.start())
    await eventually(lambda: bool(descendants() - before))
    first = descendants() - before
    try:
        await boot
        processes = descendants() - before
        # It has imported vLLM beside its host: otherwise that was done in vain, and a boot takes half as long again.
        assert first == set(cores(processes))
        requests = {
            "runs": counting(1, 500),
            "makes room": counting(1, 500),
            "dies": counting(1, 500, seed=POISON_SEED),
            "waits": counting(1, 500),
        }
        contexts = {name: Context() for name in requests}

        def progress() -> dict[str, bool]:
            told = {name: engine.progress(context) for name, context in contexts.items()}
            return {name: one.scheduled for name, one in told.items() if one is not None}

        recorders = {name: Witness(progress) for name in requests}
        for name, request in requests.items():
            await engine.submit(request, contexts[name], recorders[name])
        await eventually(lambda: progress() == {"runs": True, "makes room": True, "dies": False, "waits": False})
        contexts["makes room"].kill()
        for recorder in recorders.values():
            await recorder.end()
        assert isinstance(recorders.pop("makes room").error, Cancelled)
        assert all(isinstance(recorder.error, EngineDead) for recorder in recorders.values())
        # Said by the first one that hears of it, when the core answers no more.
        assert recorders["runs"].told == {"dies": True, "waits": False}
        assert not engine.ready
        with pytest.raises(EngineDead):
            await engine.check_health()
        with pytest.raises(EngineDead):
            await ask(engine, counting(1, 5))
    finally:
        await engine.stop()
    await gone(processes)


async def test_host_that_is_killed_takes_core_and_ranks_along_even_when_they_hang() -> None:
    code = (
        "import asyncio, sys\n"
        "from tests.engines.vllm.booted import DEMO_OPTIONS, make_vllm\n"
        "async def main():\n"
        "    ranks = {'distributed_executor_backend': 'mp'}\n"
        "    await make_vllm('vllm-1', **DEMO_OPTIONS, engine_args=ranks).start()\n"
        "    print('booted', flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    # Not by `-c` or standard input: the children import the main module again.
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(code)
        script.flush()
        host = await asyncio.create_subprocess_exec(
            sys.executable,
            script.name,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        )
        assert host.stdout is not None
        try:
            async with asyncio.timeout(BOOT_DEADLINE_S):
                while await host.stdout.readline() != b"booted\n":
                    assert not host.stdout.at_eof(), "it did not boot"
            processes = set(psutil.Process(host.pid).children(recursive=True))
            assert len(processes) >= 2  # the core, and its rank
            (core,) = cores(processes)
            core.suspend()
        finally:
            host.kill()
            await host.wait()
        await gone(processes)


async def test_stop_fails_what_runs_and_frees_everything() -> None:
    before = descendants()
    async with demo_engine() as engine:
        processes = descendants() - before
        assert processes
        recorder = Recorder()
        await engine.submit(counting(1, 500), Context(), recorder)
        await eventually(lambda: len(recorder.events) > 3)
        await engine.stop(timeout_s=20.0)
        assert isinstance(recorder.error, EngineDead)
        await gone(processes)
        with pytest.raises(EngineDead):
            await ask(engine, counting(1, 5))
