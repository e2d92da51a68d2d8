"""What a boot of vLLM is made of: seconds from the start of its host's process to the first token.

`python -m tests.benchmarks.boot` boots the demo model again and again, each time in a process of its own: in turn as it
is, and with a core that imports only after its host, as vLLM starts it by itself. `--cold` takes what is installed out
of the page cache before each boot, as on a node that never had an instance; what another process has mapped stays.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil
from rich.console import Console

from engines.vllm.early_core import EarlyCore
from tests.benchmarks.machine import machine
from tests.benchmarks.quantiles import Spread
from tests.benchmarks.report import table
from tests.engines.vllm.asking import ask, counting
from tests.engines.vllm.booted import DEMO_OPTIONS, make_vllm

WAYS = ("early core", "late core")
PARTS = (
    "Python, our own imports",
    "the host's imports",
    "the rest of the core's",
    "model, KV cache, what serves requests",
    "first answer",
)
_TITLE = "VLLM::EngineCore"
"""What the core's process calls itself as soon as it begins."""
_POLL_S = 0.01


def main() -> None:
    """Prints the medians of the boots, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.boot", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="boots of each way; default 5")
    parser.add_argument("--cold", action="store_true", help="what is installed is not in the page cache")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        sys.stdout.write(json.dumps(asyncio.run(_boot(given.one))) + "\n")
        return
    boots: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(given.times):
        for way, parts in boots.items():
            if given.cold:
                _forget_files()
            command = [sys.executable, "-m", "tests.benchmarks.boot", "--one", way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            parts.append(json.loads(done.stdout.splitlines()[-1]))
    console = Console(file=sys.stdout, width=200)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()))
    console.print(f"Seconds: median (min-max) of {given.times} boots of each way, in turn")
    console.print(_table(boots))


def _table(boots: dict[str, list[list[float]]]) -> object:
    made = table("", *boots)
    for number, part in enumerate(PARTS):
        made.add_row(part, *(_spread([parts[number] for parts in each]) for each in boots.values()))
    made.add_row("whole", *(_spread([sum(parts) for parts in each]) for each in boots.values()))
    return made


def _spread(values: list[float]) -> str:
    spread = Spread.of(values)
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


async def _boot(way: str) -> list[float]:
    """One boot, in this process; the seconds of each part."""
    if way == "late core":
        EarlyCore.__enter__ = lambda self: self
    engine = make_vllm("vllm-0", **DEMO_OPTIONS)
    times = [psutil.Process().create_time(), time.time()]
    with _at_offer(lambda: times.append(time.time())), _at_core(times.append):
        await engine.start()
    times.append(time.time())
    await ask(engine, counting(1, 2))
    times.append(time.time())
    await engine.stop()
    return [after - before for before, after in pairwise(times)]


@contextmanager
def _at_offer(then: Callable[[], None]) -> Iterator[None]:
    """Says when the host has imported everything: it is about to start vLLM then."""
    offered = EarlyCore.offered

    @contextmanager
    def watched(self: EarlyCore) -> Iterator[None]:
        then()
        with offered(self):
            yield

    EarlyCore.offered = watched
    try:
        yield
    finally:
        EarlyCore.offered = offered


@contextmanager
def _at_core(then: Callable[[float], None]) -> Iterator[None]:
    """Says when the core has imported everything, and begins."""
    begun, over = [], threading.Event()

    def watch() -> None:
        while not over.is_set() and not begun:
            if any(_TITLE in "".join(child.cmdline()) for child in psutil.Process().children()):
                begun.append(time.time())
            time.sleep(_POLL_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    then(begun[0])


def _forget_files() -> None:
    """Lets the kernel forget what is installed, as far as nobody has it mapped."""
    os.sync()
    for folder in {sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib")}:
        for path in Path(folder).rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
