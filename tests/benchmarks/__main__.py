"""`make bench`: Penstock beside vLLM's own server, and the router's memory."""

import argparse
import asyncio
import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.demo import MODEL_PATH
from tests.benchmarks.comparison import MAX_DURATION_S, Comparison, ComparisonPlan, compare
from tests.benchmarks.load_process import LoadFailed
from tests.benchmarks.machine import machine
from tests.benchmarks.memory import StreamsClosed, run_memory
from tests.benchmarks.report import print_comparison, print_speed
from tests.benchmarks.servers import NoAnswer
from tests.benchmarks.sides import STOCK, EngineOptions, penstock_plan, vllm_plan

FULL = ComparisonPlan(rounds=5, clients=(1, 8, 32, 64, 128), duration_s=6.0)
QUICK = ComparisonPlan(rounds=3, clients=(1, 8, 64, 128), duration_s=3.0)


def main() -> int:
    """Runs it; 0 when everything could be measured, whether or not the targets were met."""
    arguments = _parser().parse_args()
    usual = QUICK if arguments.quick else FULL
    plan = ComparisonPlan(
        rounds=arguments.rounds or usual.rounds,
        clients=tuple(arguments.clients or usual.clients),
        duration_s=arguments.seconds or usual.duration_s,
    )
    console = Console(file=sys.stdout, width=200)
    try:
        asyncio.run(_run(plan, arguments, console))
    except (NoAnswer, LoadFailed, StreamsClosed) as error:
        console.print(f"FAILED: {error}", markup=False)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=_positive(int), help=f"default {FULL.rounds}")
    parser.add_argument("--clients", type=_positive(int), nargs="+", help=f"default {' '.join(map(str, FULL.clients))}")
    parser.add_argument(
        "--seconds",
        type=_positive(float, MAX_DURATION_S),
        help=f"of each load; default {FULL.duration_s:g}, at most {MAX_DURATION_S:g}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter loads: some six minutes")
    parser.add_argument(
        "--model", type=Path, default=MODEL_PATH, help="directory of the model; default: the demo model"
    )
    parser.add_argument("--stock", action="store_true", help=f"measure {STOCK}, too: half as long again")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="compare with another checkout of Penstock, not with vLLM"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there, too")
    return parser


def _positive(kind: type[int] | type[float], limit: float = math.inf) -> Any:
    def number(text: str) -> int | float:
        value = kind(text)
        if not 0 < value <= limit:
            raise argparse.ArgumentTypeError(f"{text} is not greater than 0 and at most {limit:g}")
        return value

    return number


async def _run(plan: ComparisonPlan, arguments: argparse.Namespace, console: Console) -> None:
    stock, json_file = arguments.stock, arguments.json
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        options = EngineOptions(arguments.model)
        ours = penstock_plan(options, Path(folder))
        if arguments.against is None:
            theirs = vllm_plan(options)
        else:
            theirs = penstock_plan(options, Path(folder), checkout=arguments.against)
        sides = (theirs, ours, vllm_plan(options, stock=True)) if stock else (theirs, ours)
        comparison = await compare(sides, plan, Path(folder), console.print)
    described = ", ".join(f"{name} {value}" for name, value in machine().items())
    console.print(f"\n{described}\n", markup=False)
    print_comparison(console, comparison, ours=ours.name, theirs=theirs.name)
    if stock:
        print_speed(console, comparison, ours=ours.name, theirs=STOCK)
    if json_file is not None:
        _write(json_file, comparison, options)
        console.print(f"every measurement is in {json_file}\n", markup=False)
    await run_memory(console)


def _write(file: Path, comparison: Comparison, options: EngineOptions) -> None:
    measured = [
        {"server": side, "clients": clients, "round": number, **asdict(measurement)}
        for (side, clients), measurements in comparison.measurements.items()
        for number, measurement in enumerate(measurements, 1)
    ]
    content = {
        "machine": machine(),
        "engine_options": options.named() | {"kv_cache_bytes": options.kv_cache_bytes, "threads": options.threads},
        "boot_s": comparison.boot_s,
        "measurements": measured,
    }
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
