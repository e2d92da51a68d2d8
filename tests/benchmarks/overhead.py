"""What Penstock's own path costs, with an engine that costs next to nothing.

`python -m tests.benchmarks.overhead` measures the simulated engine at speed zero in three ways: called in the same
process, through the channel from its actor, and through the whole stack over HTTP. The first says what the engine and
its events cost by themselves; what the others add is Penstock's and Ray's.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import ray
from rich.console import Console

from actors.channel.calls import result
from actors.channel.egress import Egress
from actors.instance.engine_actor import create_engine_actor
from actors.settings import AdmissionSettings, ChannelSettings
from engines.context import Context
from engines.contract import Engine
from engines.errors import PenstockError
from engines.events import Event, Finished
from engines.registry import EngineSpec, make_engine
from engines.requests import GenerateRequest
from tests.benchmarks.load import LoadSpec
from tests.benchmarks.load_process import measure
from tests.benchmarks.processes import CpuMeter, Role
from tests.benchmarks.prompts import prompt
from tests.benchmarks.report import table
from tests.benchmarks.servers import HOST, running
from tests.benchmarks.sides import MODEL, simulated_options, simulated_plan

CLIENTS = (1, 8, 64, 256)
TOKENS = 128
DURATION_S = 4.0
WARM_UP_S = 1.0
_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one way cost at one number of clients.

    Attributes:
        tokens_per_s: Over all clients.
        caller_cpu_s: CPU seconds per token of the process that calls the engine: the router's, over HTTP.
        actor_cpu_s: CPU seconds per token of the engine actor's process; the engine itself is in it.
        rest_cpu_s: CPU seconds per token of Ray's own processes.
        tokens_per_event: Above 1 where deltas were merged on the way, because the reader was slower than the engine.
    """

    tokens_per_s: float
    tokens_per_event: float
    caller_cpu_s: float
    actor_cpu_s: float = 0.0
    rest_cpu_s: float = 0.0


class CountingSink:
    """Counts what it is given, and says when it is over: the cheapest reader there can be."""

    __slots__ = ("events", "over", "tokens")

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.events = 0
        self.tokens = 0

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        self.events += 1
        if event.__class__ is Finished:
            assert isinstance(event, Finished)
            self.tokens = event.usage.completion_tokens
            self.over.set_result(None)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream."""
        self.over.set_exception(error)


@dataclass(slots=True)
class Drive:
    """What an engine that was kept busy has given.

    Attributes:
        tokens: Tokens of all answers.
        events: Events of all answers.
        wall_s: Seconds from the first request to the end of the last answer.
    """

    tokens: int = 0
    events: int = 0
    wall_s: float = 0.0


async def drive(engine: Engine, clients: int, duration_s: float) -> Drive:
    """Keeps so many requests under way for so long.

    Raises:
        PenstockError: A request failed.
        ValueError: An answer had another number of tokens than was asked for.
    """
    began_s = time.perf_counter()
    numbers = count()
    given = Drive()

    async def ask_on() -> None:
        while time.perf_counter() - began_s < duration_s:
            sink = CountingSink()
            await engine.submit(_request(next(numbers)), Context(), sink)
            await sink.over
            if sink.tokens != TOKENS:
                raise ValueError(f"an answer had {sink.tokens} tokens, not {TOKENS}")
            given.tokens += sink.tokens
            given.events += sink.events

    async with asyncio.timeout(duration_s + _LIMIT_S), asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(ask_on())
    given.wall_s = time.perf_counter() - began_s
    return given


async def engine_alone() -> dict[int, Cost]:
    """The engine in this process."""
    engine = make_engine("alone", _spec())
    await engine.start()
    try:
        return {clients: await _driven(engine, clients) for clients in CLIENTS}
    finally:
        await engine.stop()


async def through_channel() -> dict[int, Cost]:
    """The engine in its actor, called from this process over one channel, on a Ray of its own."""
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=150 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        admission = AdmissionSettings(max_running=max(CLIENTS))
        actor = create_engine_actor("overhead", "bench", _spec(), admission, ChannelSettings())
        egress = Egress(await result(actor.boot.remote(), "overhead"), ChannelSettings())
        await egress.start()
        costs = {clients: await _driven(egress, clients) for clients in CLIENTS}
        await egress.stop()
        await result(actor.stop.remote(), "overhead")
        return costs
    finally:
        ray.shutdown()


async def through_http() -> dict[int, Cost]:
    """The engine behind the whole stack, as a fleet of one instance and one router replica."""
    costs: dict[int, Cost] = {}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        plan = simulated_plan(Path(folder), streams=max(CLIENTS), tokens=TOKENS)
        async with running(plan, Path(folder) / "penstock.log") as server:
            for clients in CLIENTS:
                for seed, duration_s in enumerate((WARM_UP_S, DURATION_S)):
                    spec = LoadSpec(
                        HOST, plan.port, plan.model, clients, duration_s, TOKENS, seed, limit_s=duration_s + _LIMIT_S
                    )
                    measured = await measure(spec, server.pid)
                costs[clients] = Cost(
                    measured.load.tokens_per_s,
                    measured.load.tokens / measured.load.events,
                    measured.cpu_per_token_s(Role.ROUTER),
                    measured.cpu_per_token_s(Role.ENGINE_ACTOR),
                    measured.cpu_per_token_s(Role.RAYLET) + measured.cpu_per_token_s(Role.REST),
                )
    return costs


async def _driven(engine: Engine, clients: int) -> Cost:
    await drive(engine, clients, WARM_UP_S)
    meter = CpuMeter(os.getpid())
    caller_before_s = time.process_time()
    given = await drive(engine, clients, DURATION_S)
    caller_s = time.process_time() - caller_before_s
    used = meter.read_s()
    actor_s = used.get(Role.ENGINE_ACTOR, 0.0)
    # This process is in the meter's tree, too, and not one of Ray's.
    rest_s = max(sum(used.values()) - actor_s - caller_s, 0.0)
    tokens = given.tokens
    return Cost(tokens / given.wall_s, tokens / given.events, caller_s / tokens, actor_s / tokens, rest_s / tokens)


def _spec() -> EngineSpec:
    return EngineSpec(kind="simulated", model=MODEL, options=simulated_options(max(CLIENTS), TOKENS))


def _request(number: int) -> GenerateRequest:
    return GenerateRequest.model_validate(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt(1, number)}],
            "sampling": {"max_tokens": TOKENS, "temperature": 1.0, "ignore_eos": True},
        }
    )


def print_overhead(console: Console, ways: Mapping[str, Mapping[int, Cost]]) -> None:
    """Prints every way at every number of clients."""
    console.print("The simulated engine at speed zero: tokens per second, and CPU microseconds per token by process")
    made = table("clients", "way", "tokens/s", "tokens per event", "caller or router", "engine actor", "Ray's own")
    for clients in CLIENTS:
        for name, costs in ways.items():
            cost = costs[clients]
            figures = (cost.caller_cpu_s, cost.actor_cpu_s, cost.rest_cpu_s)
            cells = [f"{figure * 1e6:.1f}" for figure in figures]
            made.add_row(str(clients), name, f"{cost.tokens_per_s:.0f}", f"{cost.tokens_per_event:.2f}", *cells)
    console.print(made)


async def run_overhead(console: Console) -> None:
    """Measures all three ways and prints them.

    Raises:
        BootFailed: Penstock did not come up.
        LoadFailed: An answer over HTTP was wrong.
        PenstockError: An answer otherwise was.
    """
    ways = {"engine alone": await engine_alone(), "channel": await through_channel(), "HTTP": await through_http()}
    print_overhead(console, ways)


if __name__ == "__main__":
    asyncio.run(run_overhead(Console(file=sys.stdout, width=160)))
