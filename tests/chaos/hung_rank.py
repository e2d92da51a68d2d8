"""One rank of a tensor parallel vLLM engine stands still: the whole engine must be found hanging, as a core would be.

`python -m tests.chaos.hung_rank`. It needs no fleet, boots the demo model on two ranks (a minute or more on two
cores), and ends with 1 if the hang is not found, if a rank is left behind, or if a stream goes on regardless.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time

import psutil
from rich.console import Console

from actors.directory.known_instance import Instance
from actors.instance.engine_host import EngineHost
from actors.settings import AdmissionSettings, ChannelSettings
from engines.context import Context
from engines.errors import PenstockError, Timeout
from engines.registry import EngineSpec
from engines.requests import GenerateRequest, Sampling
from engines.sink import Mailbox

RANKS = 2
OPTIONS = {"model": "demo", "kv_cache_bytes": 64 * 2**20, "max_num_seqs": 8, "enforce_eager": True}
WATCH_S = 10
CANARY_IDLE_S = 2.0
TIMEOUT_S = 10.0
STALL_S = 8.0
"""On a busy machine a step of two ranks takes a while; the fleet's own default is 30 s."""

say = Console(highlight=False, markup=False, soft_wrap=True).print


def processes() -> list[psutil.Process]:
    """Every process of the engine; Python's own tracker of shared memory stays as long as this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("resource_tracker" in part for part in process.cmdline()):
                found.append(process)
    return found


def ranks() -> list[psutil.Process]:
    """The processes that hold a part of the model."""
    return [process for process in processes() if "Worker" in process.name()]


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that waits to be reaped does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def check(host: EngineHost) -> str:
    """What the health check says, and after how long."""
    began_s = time.monotonic()
    try:
        await host.check_health(CANARY_IDLE_S, TIMEOUT_S, STALL_S)
    except PenstockError as error:
        return f"{type(error).__name__} after {time.monotonic() - began_s:.1f} s"
    return f"healthy after {time.monotonic() - began_s:.1f} s"


async def main() -> int:
    """Boots, stops a rank, looks; returns the exit status."""
    spec = EngineSpec(kind="vllm", model="demo", options=OPTIONS, tensor_parallel_size=RANKS)
    host = EngineHost(Instance(id="demo-0", model="demo"), spec, AdmissionSettings(), ChannelSettings(), lambda: None)
    began_s = time.monotonic()
    await host.boot()
    say(f"booted after {time.monotonic() - began_s:.0f} s:", [(one.pid, one.name()) for one in processes()])
    engine, mailbox, events = host.engine, Mailbox(), 0
    request = GenerateRequest(model="demo", prompt="count", sampling=Sampling(max_tokens=3000, ignore_eos=True))
    await engine.submit(request, Context(), mailbox)

    async def read() -> None:
        nonlocal events
        while True:
            events += len(await mailbox.get_all())

    reader = asyncio.ensure_future(read())
    async with asyncio.timeout(60):
        while engine.steps < 5:  # noqa: ASYNC110 - steps signal nothing
            await asyncio.sleep(0.1)
    say("steps and events while it works:", engine.steps, events, await check(host))
    found = ranks()
    assert len(found) == RANKS, f"there are {len(found)} ranks"
    os.kill(found[-1].pid, signal.SIGSTOP)
    await asyncio.sleep(1)
    seen = []
    for _ in range(WATCH_S):
        seen.append((engine.steps, events))
        await asyncio.sleep(1)
    say(f"rank {found[-1].pid} stopped; steps and events, second by second:", seen)
    stands_still = len(set(seen)) == 1
    said = await check(host)
    say("the check says:", said)
    began_s = time.monotonic()
    everything = processes()
    reader.cancel()
    await host.stop(10.0)
    left = [process.pid for process in everything if is_alive(process)]
    say(f"stopped after {time.monotonic() - began_s:.1f} s; left behind: {left}")
    return 0 if stands_still and said.startswith(Timeout.__name__) and not left else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
