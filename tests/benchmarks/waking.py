"""How long the first token takes of one instance that has to boot, that is awake, and that sleeps.

The instance and its channel are in this process, without Ray and without HTTP. The simulated engine, which boots and
wakes for as long as it is told; with `--engine vllm` the demo model on vLLM.
"""

import argparse
import asyncio
import statistics
import sys
import time

from rich.console import Console

from actors.directory.known_instance import Instance
from actors.instance.engine_host import EngineHost
from actors.settings import AdmissionSettings, ChannelSettings, SleepSettings
from engines.events import TextDelta
from engines.registry import EngineSpec
from engines.requests import GenerateRequest
from tests.actors.channel_reader import Reader, until
from tests.benchmarks.report import table

AFTER_S = 1.0
OPTIONS = {
    "simulated": {"boot_s": 20.0, "wake_s": 2.0},
    "vllm": {"model": "demo", "kv_cache_bytes": 64 * 2**20, "enforce_eager": True},
}


def main() -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.waking", description=__doc__)
    parser.add_argument("--engine", choices=sorted(OPTIONS), default="simulated")
    parser.add_argument("--times", type=int, default=10, help="how often each but the boot is measured; default 10")
    arguments = parser.parse_args()
    rows: dict[str, tuple[str, str]] = {}
    for level in (1, 2):
        rows = asyncio.run(_measured(arguments.engine, level, arguments.times)) | rows
    made = table("the first request finds an instance", "TTFT, s", "of which waking")
    for name, figures in sorted(rows.items()):
        made.add_row(name, *figures)
    Console(file=sys.stdout, width=200).print(made)
    return 0


async def _measured(engine: str, level: int, times: int) -> dict[str, tuple[str, str]]:
    spec = EngineSpec(kind=engine, model="m", options=OPTIONS[engine], sleeps=True)
    sleep = SleepSettings.model_validate({"after_s": AFTER_S, "level": level})
    host = EngineHost(Instance("i-0", "m"), spec, AdmissionSettings(), ChannelSettings(), lambda: None, sleep)
    began_s = time.monotonic()
    await host.boot()
    reader = Reader(host)
    await reader.is_open()
    numbers = iter(range(1, 10**6))
    await _first_token(reader, next(numbers))
    booted_s = time.monotonic() - began_s
    awake = [await _first_token(reader, next(numbers)) for _ in range(times)]
    asleep, waking = [], []
    for _ in range(times):
        await until(lambda: host.load().is_asleep)
        asleep.append(await _first_token(reader, next(numbers)))
        waking.append(host.load().wake_s)
    reader.close()
    await host.stop(30.0)
    return {
        "that boots": (f"{booted_s:.1f}", ""),
        "awake, as a spare is": (f"{statistics.median(awake):.3f}", ""),
        f"asleep, level {level}": (f"{statistics.median(asleep):.3f}", f"{statistics.median(waking):.3f}"),
    }


async def _first_token(reader: Reader, number: int) -> float:
    """Asks, and waits for the end; how long the first token took, in seconds."""
    messages = [{"role": "user", "content": "count from 1 to 9"}]
    began_s = time.monotonic()
    reader.submit(GenerateRequest.model_validate({"model": "m", "messages": messages}), first=number)
    await until(lambda: any(isinstance(item, TextDelta) for item in reader.said(number)))
    first_s = time.monotonic() - began_s
    await reader.end(number)
    return first_s


if __name__ == "__main__":
    sys.exit(main())
