"""What a thousand open streams cost the router in memory.

`python -m tests.benchmarks.memory` boots Penstock with one instance of the simulated engine at speed zero and one
router replica, opens the streams, and reads the router's memory several times while every one of them is still open
and speaking.
"""

import asyncio
import contextlib
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tests.benchmarks.answer_reader import BadAnswer
from tests.benchmarks.connection import Connection
from tests.benchmarks.processes import Memory, Role, descendants, memory_of
from tests.benchmarks.prompts import chat_request, prompt
from tests.benchmarks.report import table
from tests.benchmarks.servers import HOST, Server, running
from tests.benchmarks.sides import simulated_plan

STREAMS = 1000
TARGET_BYTES = 300_000_000
"""Most that the router's resident memory may be with all streams open."""
_TOKENS = 200_000  # of each stream: more than it can get while it is watched
_OPEN_LIMIT_S = 120.0
_SAMPLES = 10
_SAMPLE_EVERY_S = 1.0
_OPEN_AT_A_TIME = 50


class StreamsClosed(Exception):
    """Not all streams were open when the memory was read, so the figure would say nothing."""


@dataclass(frozen=True, slots=True)
class RouterMemory:
    """The router's memory without and with the streams.

    Attributes:
        idle: Before the first stream.
        peak: The largest of the samples taken while all streams were open.
        events_per_s: SSE events that all streams together received per second meanwhile.
    """

    idle: Memory
    peak: Memory
    events_per_s: float


async def measure_memory(server: Server, streams: int) -> RouterMemory:
    """Opens the streams, watches the router, and closes them again.

    Raises:
        StreamsClosed: A stream ended, failed or stood still while the memory was read.
    """
    router = next(process.pid for process in descendants(server.pid) if process.role is Role.ROUTER)
    idle = memory_of(router)
    connections: list[Connection] = []
    asking: list[asyncio.Task[object]] = []
    try:
        for number in range(streams):
            connection = await Connection.open(HOST, server.plan.port)
            connections.append(connection)
            request = chat_request(HOST, server.plan.model, prompt(1, number), _TOKENS)
            asking.append(asyncio.create_task(connection.post(request, _TOKENS)))
            if number % _OPEN_AT_A_TIME == 0:
                await asyncio.sleep(0.05)
        deadline_s = time.monotonic() + _OPEN_LIMIT_S
        while not all(connection.speaking for connection in connections):
            _check(asking)
            if time.monotonic() > deadline_s:
                speaking = sum(connection.speaking for connection in connections)
                raise StreamsClosed(f"only {speaking} of {streams} streams speak after {_OPEN_LIMIT_S:.0f} s")
            await asyncio.sleep(0.1)
        return await _watch(router, idle, connections, asking)
    finally:
        for connection in connections:
            connection.close()
        for task in asking:
            with contextlib.suppress(BadAnswer, asyncio.CancelledError):
                task.cancel()
                await task


async def _watch(
    router: int, idle: Memory, connections: list[Connection], asking: list[asyncio.Task[object]]
) -> RouterMemory:
    samples: list[Memory] = []
    began_s = time.monotonic()
    events_before = [connection.events for connection in connections]
    for _ in range(_SAMPLES):
        await asyncio.sleep(_SAMPLE_EVERY_S)
        samples.append(memory_of(router))
        _check(asking)
    wall_s = time.monotonic() - began_s
    gained = [connection.events - before for connection, before in zip(connections, events_before, strict=True)]
    if not all(gained):
        raise StreamsClosed(f"{gained.count(0)} streams stood still for {wall_s:.0f} s")
    return RouterMemory(idle, max(samples, key=lambda sample: sample.rss_bytes), sum(gained) / wall_s)


def _check(asking: list[asyncio.Task[object]]) -> None:
    for task in asking:
        if task.done():
            raise StreamsClosed(f"a stream ended before its time: {task.exception() or 'complete'}")


def print_memory(console: Console, streams: int, memory: RouterMemory) -> None:
    """Prints the router's memory beside its target."""
    console.print(f"Memory of one router replica in MB; the streams together got {memory.events_per_s:.0f} events/s")
    made = table("", "RSS", "PSS", "its own")
    for name, sizes in ((f"{streams} open streams", memory.peak), ("before", memory.idle)):
        figures = (sizes.rss_bytes, sizes.pss_bytes, sizes.own_bytes)
        made.add_row(name, *(f"{figure / 1e6:.0f}" for figure in figures))
    console.print(made)
    met = "yes" if memory.peak.rss_bytes <= TARGET_BYTES else "NO"
    console.print(f"RSS at most {TARGET_BYTES / 1e6:.0f} MB: {met}\n")


def allow_open_files(count: int) -> None:
    """Raises this process's limit on open files, and that of what it starts, to at least so many.

    Raises:
        ValueError: The machine does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


async def run_memory(console: Console) -> None:
    """Boots, measures, prints.

    Raises:
        BootFailed: Penstock did not come up.
        StreamsClosed: Not all streams were open.
    """
    allow_open_files(STREAMS * 2 + 1000)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        plan = simulated_plan(Path(folder), streams=STREAMS, tokens=_TOKENS)
        async with running(plan, Path(folder) / "penstock.log") as server:
            memory = await measure_memory(server, STREAMS)
    print_memory(console, STREAMS, memory)


if __name__ == "__main__":
    asyncio.run(run_memory(Console(file=sys.stdout, width=160)))
