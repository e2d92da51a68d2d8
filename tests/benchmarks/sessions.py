"""What idle realtime sessions cost the router: memory of each, and how soon a turn among them is answered.

`python -m tests.benchmarks.sessions` serves a simulated engine at speed zero from this process, without Ray, opens the
sessions from another process, each after one turn, and then times turns of them beside chat requests, one after
another; all are kept in an SQLite database. Goal: 50 kB for each of 10,000.
"""

import asyncio
import gc
import json
import random
import resource
import sys
import time
from asyncio.subprocess import PIPE
from tempfile import TemporaryDirectory

import aiohttp
import psutil
from rich.console import Console

from deployments.database.storage import Storage
from deployments.fleet_settings import DatabaseSettings, HttpSettings
from deployments.http.ingress import HttpIngress
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from engines.registry import EngineSpec, make_engine
from tests.benchmarks.quantiles import quantile
from tests.benchmarks.report import table

SESSIONS = 10_000
AT_A_TIME = 50
TURNS = 500
LIMIT_S = 540.0
TEXT = "count from 1 to 20"
"""The demo answers with some 60 characters."""


async def serve(sessions: int) -> None:
    """Serves, has the sessions opened, and prints what was seen."""
    engine = make_engine("sim-0", EngineSpec(kind="simulated", model="demo", options={"speed": "instant"}))
    fleet = LocalFleet({"demo": [engine]})
    await fleet.start()
    settings = HttpSettings(port=0, max_connections=2 * sessions, max_connections_per_peer=2 * sessions)
    with TemporaryDirectory() as folder:
        storage = Storage(DatabaseSettings(file=f"{folder}/penstock.sqlite"), settings)
        ingress = HttpIngress(fleet, settings, Metrics(), storage=storage)
        await ingress.start()
        try:
            await _measure(sessions, ingress.port)
        finally:
            await ingress.stop(0)
            await fleet.stop()


async def _measure(sessions: int, port: int) -> None:
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.sessions", str(sessions), str(port), stdin=PIPE, stdout=PIPE
    )
    assert client.stdin is not None and client.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            await client.stdout.readline()  # One session is open, and has answered.
            before = _resident()
            client.stdin.write(b"\n")
            await client.stdout.readline()  # All of them.
            after = _resident()
            client.stdin.write(b"\n")
            seen = json.loads(await client.stdout.readline())
            await client.wait()
    finally:
        if client.returncode is None:
            client.kill()
    made = table("sessions", "kB each", "turn p50, ms", "p99", "chat request p50, ms", "p99")
    each = (after - before) / (sessions - 1) / 1000
    figures = [f"{1000 * quantile(seen[what], share):.1f}" for what in ("turn", "chat") for share in (0.5, 0.99)]
    made.add_row(str(sessions), f"{each:.1f}", *figures)
    Console(file=sys.stdout, width=120).print(made)


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


async def ask(sessions: int, port: int) -> None:
    """Opens the sessions, and asks among them."""
    url = f"http://127.0.0.1:{port}/v1"
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def opened() -> aiohttp.ClientWebSocketResponse:
            socket = await http.ws_connect(f"{url}/realtime?model=demo", compress=0)
            await turn(socket)
            return socket

        sockets = [await opened()]
        _say()
        await lines.readline()
        while len(sockets) < sessions:
            some = min(AT_A_TIME, sessions - len(sockets))
            sockets += await asyncio.gather(*(opened() for _ in range(some)))
        _say()
        await lines.readline()
        took_s: dict[str, list[float]] = {"turn": [], "chat": []}
        for _ in range(TURNS):
            took_s["turn"].append(await turn(random.choice(sockets)))
            took_s["chat"].append(await chat(http, url))
        _say(json.dumps(took_s))


def _say(line: str = "") -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def turn(socket: aiohttp.ClientWebSocketResponse) -> float:
    """Seconds to the first piece of a turn's answer, which is read to its end."""
    content = [{"type": "input_text", "text": TEXT}]
    item = {"type": "message", "role": "user", "content": content}
    began_s = time.perf_counter()
    await socket.send_json({"type": "conversation.item.create", "item": item})
    await socket.send_json({"type": "response.create"})
    first_s = 0.0
    while True:
        event = await socket.receive_json()
        assert event["type"] != "error", event
        if event["type"] == "response.output_text.delta" and not first_s:
            first_s = time.perf_counter() - began_s
        if event["type"] == "response.done":
            return first_s


async def chat(http: aiohttp.ClientSession, url: str) -> float:
    """The same of a chat request."""
    body = {"model": "demo", "messages": [{"role": "user", "content": TEXT}], "stream": True}
    began_s = time.perf_counter()
    first_s = 0.0
    async with http.post(f"{url}/chat/completions", json=body) as answer:
        async for line in answer.content:
            if b'"content":' in line and not first_s:
                first_s = time.perf_counter() - began_s
    return first_s


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    given = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(ask(*given) if len(given) == 2 else serve(*(given or [SESSIONS])))
