"""How soon a fleet lets go of requests that nobody waits for, and what it does with more work than it can take.

`python -m tests.benchmarks.resilience` deploys a fleet of simulated engines on a Ray of its own, with one router
replica, and measures over HTTP: clients that leave at each stage of a request, a thousand that leave at once, a router
that is killed, ten times the load that the fleet can serve, and memory over twenty thousand requests.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from ray import serve
from rich.console import Console

from actors.directory.known_instance import Instance
from deployments.fleet_settings import FleetSettings
from deployments.handle import FleetHandle
from deployments.names import ROUTER
from engines.context import Context
from engines.requests import GenerateRequest
from tests.benchmarks.answer_reader import BadAnswer
from tests.benchmarks.connection import Connection
from tests.benchmarks.memory import allow_open_files
from tests.benchmarks.own_ray import deployed_alone
from tests.benchmarks.processes import Role, descendants, memory_of
from tests.benchmarks.prompts import chat_request, prompt
from tests.benchmarks.quantiles import quantile
from tests.benchmarks.report import table
from tests.benchmarks.servers import HOST, free_port

NAME = "resilience"
RAY_CPUS = 16
LONG = 6000
"""Tokens of an answer that is still under way whenever somebody leaves it: some forty seconds."""
OTHERS = 40
LEAVERS = 100
STORM = 1000
MAX_RUNNING = 8
MAX_QUEUED = 8
OVERLOAD = 10
OVERLOAD_S = 15.0
SHORT = 64
SHORT_S = 0.4
"""About what an answer of so many tokens takes at the simulated engine's pace; what is measured counts."""
REQUESTS = 20_000
SAMPLES = 10
CLIENTS = 64
_LIMIT_S = 60.0

FLEET = FleetSettings.model_validate(
    {
        "name": NAME,
        "http": {"host": HOST, "port": free_port()},
        "router": {"cpus": 0.1},
        "models": [
            # Two instances for whoever leaves, one more that is soon full, one that is as fast as can be.
            {"name": "long", "engine": "simulated", "replicas": 2, "cpus": 0.1, "admission": {"max_running": 600}}
            | {"options": {"max_num_seqs": 600, "num_blocks": 250_000}},
            {"name": "few", "engine": "simulated", "cpus": 0.1}
            | {"admission": {"max_running": MAX_RUNNING, "max_queued": MAX_QUEUED}},
            {"name": "fast", "engine": "simulated", "cpus": 0.1, "options": {"speed": "instant"}},
        ],
    }
)


@dataclass(slots=True)
class Streams:
    """Answers under way, each on a connection of its own."""

    model: str
    tokens: int = LONG
    made: int = 0
    open: list[tuple[Connection, asyncio.Task[object]]] = field(default_factory=list)

    async def add(self, count: int, words: int = 0) -> None:
        """Asks so many times; the prompts have so many words more than the usual ones."""
        for _ in range(count):
            connection = await Connection.open(HOST, FLEET.http.port)
            self.made += 1
            text = prompt(7, self.made) + " word" * words
            task = asyncio.create_task(connection.post(chat_request(HOST, self.model, text, self.tokens), self.tokens))
            self.open.append((connection, task))

    async def leave(self, count: int | None = None) -> float:
        """The newest leave, or all; when."""
        count = len(self.open) if count is None else count
        leaving = [self.open.pop() for _ in range(count)]
        for connection, _ in leaving:
            connection.close()
        left_s = time.monotonic()
        for _, task in leaving:
            with contextlib.suppress(BadAnswer):
                await task
        return left_s


class Fleet:
    """The fleet, as its actors know it."""

    def __init__(self) -> None:
        self.handle = FleetHandle(serve.get_deployment_handle(ROUTER, NAME))
        self._instances: dict[str, list[Instance]] = {}

    async def find(self) -> None:
        """Looks up the instances."""
        for instance in await self.handle.instances():
            self._instances.setdefault(instance.model, []).append(instance)

    def rss_bytes(self, model: str) -> tuple[int, int]:
        """Resident memory of the router, and of the actor of a model with one instance."""
        [instance] = self._instances[model]
        return memory_of(_router()).rss_bytes, memory_of(instance.pid).rss_bytes

    async def load(self, model: str) -> tuple[int, int]:
        """Requests that run and that wait, now, as the actors of the model say."""
        actors = [instance.actor for instance in self._instances[model]]
        instances: list[Instance] = await asyncio.gather(*(actor.describe.remote() for actor in actors))
        return sum(one.load.running for one in instances), sum(one.load.queued for one in instances)

    async def until(self, model: str, running: int, queued: int = 0) -> float:
        """When they were first seen to be so many."""
        deadline_s = time.monotonic() + _LIMIT_S
        while (load := await self.load(model)) != (running, queued):
            if time.monotonic() > deadline_s:
                sys.exit(f"{model} has {load} requests running and queued, not {(running, queued)}")
        return time.monotonic()


async def leave_while_streaming(fleet: Fleet) -> list[float]:
    """Seconds until the slot of a client that leaves in the middle of its answer is free."""
    streams = Streams("long")
    await streams.add(OTHERS)
    await fleet.until("long", OTHERS)
    took_s = []
    for _ in range(LEAVERS):
        await streams.add(1)
        await fleet.until("long", OTHERS + 1)
        async with asyncio.timeout(_LIMIT_S):
            while not streams.open[-1][0].speaking:  # noqa: ASYNC110 - as a client would
                await asyncio.sleep(0.005)
        left_s = await streams.leave(1)
        took_s.append(await fleet.until("long", OTHERS) - left_s)
    await streams.leave()
    await fleet.until("long", 0)
    return took_s


async def leave_before_the_first_token(fleet: Fleet) -> list[float]:
    """The same for one whose prompt is still being computed."""
    streams, took_s = Streams("long", tokens=16), []
    for _ in range(LEAVERS):
        await streams.add(1, words=1500)
        await fleet.until("long", 1)
        left_s = await streams.leave(1)
        took_s.append(await fleet.until("long", 0) - left_s)
    return took_s


async def leave_the_queue(fleet: Fleet) -> list[float]:
    """The same for one who waits at the gate."""
    streams, took_s = Streams("few"), []
    await streams.add(MAX_RUNNING)
    await fleet.until("few", MAX_RUNNING)
    for _ in range(LEAVERS):
        await streams.add(1)
        await fleet.until("few", MAX_RUNNING, 1)
        left_s = await streams.leave(1)
        took_s.append(await fleet.until("few", MAX_RUNNING, 0) - left_s)
    await streams.leave()
    await fleet.until("few", 0)
    return took_s


async def cancel_a_handle_call(fleet: Fleet) -> list[float]:
    """The same for a Python caller that drops its stream."""
    request = GenerateRequest.model_validate(
        {"model": "long", "prompt": "go on", "sampling": {"max_tokens": LONG, "ignore_eos": True}}
    )
    took_s = []
    for _ in range(LEAVERS):
        events = fleet.handle.generate(request, Context())
        for _ in range(5):
            await anext(events)
        left_s = time.monotonic()
        await events.aclose()  # type: ignore[attr-defined]
        took_s.append(await fleet.until("long", 0) - left_s)
    return took_s


async def storm(fleet: Fleet) -> tuple[int, float]:
    """A thousand leave at once: requests that run a second later, and seconds until none does."""
    streams = Streams("long")
    while len(streams.open) < STORM:
        await streams.add(50)
        await asyncio.sleep(0.05)
    await fleet.until("long", STORM)
    left_s = time.monotonic()
    leaving = asyncio.create_task(streams.leave())
    gone_s = await fleet.until("long", 0) - left_s
    await asyncio.sleep(max(0.0, 1.0 - gone_s))
    running, _ = await fleet.load("long")
    await leaving
    return running, gone_s


async def router_death(fleet: Fleet) -> float:
    """Seconds until no request of a router replica that is killed runs any more."""
    streams = Streams("long")
    await streams.add(OTHERS)
    await fleet.until("long", OTHERS)
    killed_s = time.monotonic()
    os.kill(_router(), signal.SIGKILL)
    gone_s = await fleet.until("long", 0) - killed_s
    await streams.leave()
    return gone_s


@dataclass(slots=True)
class Overload:
    """What became of more requests than can be served."""

    ends: Counter[str] = field(default_factory=Counter)
    ttft_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    retry_after_s: list[float] = field(default_factory=list)


async def overload() -> tuple[int, Overload]:
    """Requests come at ten times the rate that the model can serve, whatever becomes of them; how many came."""
    came = round(OVERLOAD * MAX_RUNNING / SHORT_S * OVERLOAD_S)
    result = Overload()
    body = {"model": "few", "stream": True, "max_tokens": SHORT, "ignore_eos": True, "messages": []}
    url = f"http://{HOST}:{FLEET.http.port}/v1/chat/completions"

    async def ask(session: aiohttp.ClientSession, number: int) -> None:
        asked_s = time.monotonic()
        first_s, end = 0.0, "no end"
        try:
            message = {"role": "user", "content": prompt(9, number)}
            async with session.post(url, json=body | {"messages": [message]}) as response:
                if response.status == 429:
                    result.retry_after_s.append(float(response.headers["Retry-After"]))
                    end = "refused"
                    return
                async for line in response.content:
                    if b'"content"' in line and not first_s:
                        first_s = time.monotonic()
                    if b'"error"' in line:
                        end = "failed with a reason"
                    if line.startswith(b"data: [DONE]") and end == "no end":
                        end = "served"
            if end == "served":
                result.ttft_s.append(first_s - asked_s)
                result.answer_s.append(time.monotonic() - first_s)
        except aiohttp.ClientError as error:
            end = f"connection lost: {type(error).__name__}"
        finally:
            result.ends[end] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        began_s = time.monotonic()
        for number in range(came):
            await asyncio.sleep(began_s + number * OVERLOAD_S / came - time.monotonic())
            group.create_task(ask(session, number))
    return came, result


async def memory(fleet: Fleet) -> list[tuple[int, int, int]]:
    """Requests so far, and resident bytes of the router and of the actor that answers them."""
    samples = []
    numbers = iter(range(REQUESTS))

    async def client(count: int) -> None:
        connection = await Connection.open(HOST, FLEET.http.port)
        for _ in range(count):
            await connection.post(chat_request(HOST, "fast", prompt(11, next(numbers)), 16), 16)
        connection.close()

    samples.append((0, *fleet.rss_bytes("fast")))
    for sample in range(1, SAMPLES + 1):
        share = REQUESTS // SAMPLES
        clients = [share // CLIENTS + (number < share % CLIENTS) for number in range(CLIENTS)]
        await asyncio.gather(*(client(count) for count in clients))
        samples.append((sample * share, *fleet.rss_bytes("fast")))
    return samples


@contextlib.asynccontextmanager
async def deployed() -> AsyncIterator[Fleet]:
    """The fleet, ready."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    async with deployed_alone(FLEET, ray_cpus=RAY_CPUS, store_bytes=150 * 2**20):
        fleet = Fleet()
        await fleet.find()
        yield fleet


def _router() -> int:
    return next(process.pid for process in descendants(os.getpid()) if process.role is Role.ROUTER)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}"


async def run(console: Console) -> None:
    """Measures and prints."""
    allow_open_files(2 * STORM + 1000)
    async with deployed() as fleet:
        console.print("Milliseconds from a client's leaving to its slot being free")
        made = table("when it left", "times", "p50", "p99", "most")
        stages: dict[str, Callable[[Fleet], Awaitable[list[float]]]] = {
            "in the middle of its answer": leave_while_streaming,
            "before its first token": leave_before_the_first_token,
            "while it waited at the gate": leave_the_queue,
            "a handle call, dropped": cancel_a_handle_call,
        }
        for stage, measure in stages.items():
            took_s = await measure(fleet)
            made.add_row(
                stage, str(len(took_s)), _ms(quantile(took_s, 0.5)), _ms(quantile(took_s, 0.99)), _ms(max(took_s))
            )
        console.print(made)
        running, gone_s = await storm(fleet)
        console.print(f"{STORM} clients leave at once: none runs after {gone_s:.2f} s; after 1 s {running} run\n")

        came, result = await overload()
        answer_s = quantile(result.answer_s, 0.5)
        bound_s = MAX_QUEUED * answer_s / MAX_RUNNING
        console.print(f"{came} requests in {OVERLOAD_S:g} s, some {OVERLOAD} times what can be served")
        ends = ", ".join(f"{count} {end}" for end, count in result.ends.most_common())
        console.print(f"{ends}; together {result.ends.total()}")
        p50, p99 = (_ms(quantile(result.ttft_s, share)) for share in (0.5, 0.99))
        told_s = quantile(result.retry_after_s, 0.5)
        console.print(
            f"TTFT of those served p50 {p50} ms, p99 {p99} ms; a full queue takes {_ms(bound_s)} ms; "
            f"Retry-After {told_s:g} s\n"
        )

        console.print(f"Resident memory in MB, over {REQUESTS} requests of 16 tokens")
        made = table("requests", "router", "engine actor")
        for requests, router, actor in await memory(fleet):
            made.add_row(str(requests), f"{router / 1e6:.0f}", f"{actor / 1e6:.0f}")
        console.print(made)
        console.print(f"The router is killed: none of its requests runs after {await router_death(fleet):.1f} s")


if __name__ == "__main__":
    asyncio.run(run(Console(file=sys.stdout, width=160)))
