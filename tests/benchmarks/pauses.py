"""How long others wait for one request: the longest pause of paced streams beside bodies that cost as much as they can.

`python -m tests.benchmarks.pauses` deploys a fleet of one simulated engine and one router replica on a Ray of its own;
`python -m tests.benchmarks.pauses --url http://127.0.0.1:8000 --model demo` measures a fleet that runs (`--embed` names
its model for embeddings, if it has one). The streams are read in a process of their own, which takes its own pauses
off; the paced engine steps every 20 ms.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.console import Console

from deployments.fleet_settings import FleetSettings
from tests.benchmarks.own_ray import deployed_alone
from tests.benchmarks.processes import descendants, memory_of
from tests.benchmarks.report import table
from tests.benchmarks.servers import HOST, free_port
from tests.turns import slowness

NAME = "pauses"
RAY_CPUS = 8
STREAMS = 4
TOKENS = 2000
"""Of one paced answer; another follows it."""
STEP_S = 0.02
CONTEXT = 1_100_000
LASTS_S = 4.0
"""For how long a case is repeated."""
AT_ONCE = 3
"""Connections that send the same, one request after another on each."""
UNREAD = 8
UNREAD_S = 15.0

FLEET = FleetSettings.model_validate(
    {
        "name": NAME,
        "http": {"host": HOST, "port": free_port()},
        "router": {"cpus": 0.1},
        "models": [
            {"name": "paced", "engine": "simulated", "cpus": 0.1}
            | {
                "options": {
                    "context_length": CONTEXT,
                    "num_blocks": 300_000,
                    "embedding_size": 4096,
                    "max_batched_tokens": 100_000,
                    "step_time": {"base_s": STEP_S, "prefill_token_s": 0, "context_token_s": 0},
                }
            },
        ],
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request.

    Attributes:
        name: What it is.
        path: Where it goes.
        body: What it says.
        reads: Whether its answer is read.
    """

    name: str
    path: str
    body: bytes
    reads: bool = True


def cases(model: str, embed: str | None) -> list[Case]:
    """Everything that costs much."""
    chat, completions, embeddings = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
    messages = "/v1/messages"

    def body(**fields: Any) -> bytes:
        return json.dumps({"model": model} | fields).encode()

    def said(**fields: Any) -> bytes:
        return body(messages=[{"role": "user", "content": "x"}], max_tokens=1, **fields)

    def holding(item: str, count: int) -> bytes:
        return said(chat_template_kwargs={"a": "@"}).replace(b'"@"', b"[" + b",".join([item.encode()] * count) + b"]")

    parts = [{"type": "text", "text": "hi"}]
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'iVBORw0KGgoA' * 1_250_000}"}}
    properties = {f"p{number}": {"type": "string", "description": "a b c"} for number in range(8)}
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": {"properties": properties}}}
        for number in range(800)
    ]
    turns = [{"role": role, "content": "hi"} for role in ("user", "assistant")]
    calls = [{"type": "tool_use", "id": str(number), "name": "f", "input": {}} for number in range(4_900)]
    thought = {"type": "thinking", "thinking": "hm " * 5_000_000, "signature": ".0"}
    result = {"type": "tool_result", "tool_use_id": "0", "content": "hi"}
    called = [turns[0], {"role": "assistant", "content": calls}, {"role": "user", "content": [result]}]
    pieces = {"role": "assistant", "content": [{"type": "text", "text": "a river " * 180}] * 9_900}
    thinking = [turns[0], {"role": "assistant", "content": [thought]}]
    made = [
        Case("nothing", "", b""),
        Case("4 MiB of [[[]]]", chat, holding("[[[]]]", 599_186)),
        Case("24,000 lists", chat, holding("[]", 24_000)),
        Case("74,000 strings", chat, holding('"ab"', 74_000)),
        Case("9,900 messages", chat, body(messages=[{"role": "user", "content": "hi"}] * 9_900, max_tokens=1)),
        Case(
            "4,900 messages in parts", chat, body(messages=[{"role": "user", "content": parts}] * 4_900, max_tokens=1)
        ),
        Case("800 tools", chat, said(tools=tools)),
        Case("9,800 turns to /v1/messages", messages, body(messages=turns * 4_900, max_tokens=1)),
        Case("4,900 calls to /v1/messages", messages, body(messages=called, max_tokens=1)),
        Case("9,900 pieces of an answer", messages, body(messages=[turns[0], pieces], max_tokens=1)),
        Case("15 MB of thinking", messages, body(messages=thinking, max_tokens=1)),
        Case("600,000 token ids", completions, body(prompt=[97] * 600_000, max_tokens=1)),
        Case("15 MB of text", completions, body(prompt="\n" * 7_500_000, max_tokens=1)),
        Case("1 MB of text", completions, body(prompt="to be or " * 110_000, max_tokens=1)),
        Case("11 MB of an image", chat, body(messages=[{"role": "user", "content": [picture]}], max_tokens=1)),
        Case("9 MB to /tokenize", "/tokenize", body(prompt="a river " * 1_125_000)),
        Case("4 MB to /tokenize", "/tokenize", body(prompt="a river " * 500_000)),
        Case("600,000 ids to /detokenize", "/detokenize", body(tokens=[97] * 600_000)),
        Case(
            "n = 8, top_logprobs 20, whole",
            chat,
            said(n=8, logprobs=True, top_logprobs=20, ignore_eos=True).replace(
                b'"max_tokens": 1,', b'"max_tokens": 200,'
            ),
        ),
    ]
    if embed is not None:
        for encoding in ("float", "base64"):
            fields = {"model": embed, "encoding_format": encoding}
            made.append(Case(f"2,048 embeddings, {encoding}", embeddings, body(input=["hi"] * 2048, **fields)))
            made.append(
                Case(
                    f"token vectors, {encoding}",
                    "/pooling",
                    body(input=["hi " * 50] * 1_000, task="token_embed", **fields),
                )
            )
        ranked = body(model=embed, query="a river", documents=["a river " * 500] * 2_048)
        made.append(Case("2,048 documents to /rerank", "/rerank", ranked))
        made.append(Case("2,048 inputs of 290 ids", embeddings, body(model=embed, input=[[97] * 290] * 2048)))
    unread = said(n=8, logprobs=True, top_logprobs=20, stream=True, ignore_eos=True)
    made.append(
        Case(f"{UNREAD} streams unread", chat, unread.replace(b'"max_tokens": 1,', b'"max_tokens": 5000,'), False)
    )
    return made


async def watch(url: str, model: str) -> None:
    """Reads paced streams; for each line on stdin, prints the longest pause since the one before."""
    gaps: list[float] = []
    lags: list[float] = []
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "count from 1 to 9"}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
    }

    async def read(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                last_s = 0.0
                async for _ in response.content.iter_any():
                    now_s = time.perf_counter()
                    if last_s:
                        gaps.append(now_s - last_s)
                    last_s = now_s

    async def tick() -> None:
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append(time.perf_counter() - began_s - 0.005)

    async def report() -> None:
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            sys.stdout.write(json.dumps({"gap_s": max(gaps, default=0.0), "own_s": max(lags, default=0.0)}) + "\n")
            sys.stdout.flush()
            gaps.clear()
            lags.clear()

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session:
        tasks = [asyncio.create_task(read(session)) for _ in range(STREAMS)]
        tasks.append(asyncio.create_task(tick()))
        await asyncio.wait([*tasks, reporting := asyncio.create_task(report())], return_when="FIRST_COMPLETED")
        if not reporting.done():
            sys.exit("a stream ended")


class Watcher:
    """The process that reads the streams."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def longest_s(self) -> tuple[float, float]:
        """The longest pause since the last call, and the longest of the reader's own."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(b"\n")
        line = json.loads(await self._process.stdout.readline())
        return line["gap_s"], line["own_s"]


@contextlib.asynccontextmanager
async def watching(url: str, model: str) -> AsyncIterator[Watcher]:
    """Reads paced streams meanwhile."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.pauses", "--watch", "--url", url, "--model", model,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Watcher(process)
    finally:
        process.kill()
        await process.wait()


async def disturb(url: str, case: Case, at_once: int) -> tuple[str, list[float]]:
    """Asks again and again; what was answered, and how long it took."""
    ends: set[str] = set()
    took_s: list[float] = []
    until_s = time.monotonic() + LASTS_S
    headers = {"Content-Type": "application/json"}

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            async with session.post(url + case.path, data=case.body, headers=headers) as response:
                while await response.content.readany():
                    pass
                ends.add(str(response.status))
            took_s.append(time.monotonic() - began_s)
            await asyncio.sleep(0.01)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:
        if not case.path:
            await asyncio.sleep(LASTS_S)
        elif case.reads:
            await asyncio.gather(*(client(session) for _ in range(at_once)))
        else:
            ends.add(await _unread(url, case))
    return ", ".join(sorted(ends)), took_s


async def _unread(url: str, case: Case) -> str:
    """Asks, and reads nothing."""
    host, _, port = url.removeprefix("http://").partition(":")
    sent = f"Host: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(case.body)}"
    head = f"POST {case.path} HTTP/1.1\r\n{sent}"
    writers = []
    for _ in range(UNREAD):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(head.encode() + b"\r\n\r\n" + case.body)
        writers.append(writer)
    await asyncio.sleep(UNREAD_S)
    for writer in writers:
        writer.close()
    return ""


def _fleet_bytes(root: int | None) -> int:
    if root is None:
        return 0
    return sum(memory_of(process.pid).rss_bytes for process in descendants(root) if process.role.serves)


async def measure(
    console: Console, url: str, model: str, embed: str | None, wanted: Callable[[str], bool], at_once: int
) -> None:
    """Measures and prints."""
    made = table(
        "beside the streams",
        "longest pause, ms",
        "of it the reader's own",
        "answered",
        "requests",
        "slowest, s",
        "fleet grew, MB",
    )
    for case in cases(model, embed):
        if not wanted(case.name):
            continue
        async with watching(url, model) as watcher:
            await asyncio.sleep(2.0)
            await watcher.longest_s()
            before = _fleet_bytes(os.getpid())
            answered, took_s = await disturb(url, case, at_once)
            grew = _fleet_bytes(os.getpid()) - before
            gap_s, own_s = await watcher.longest_s()
        row = (
            case.name,
            f"{gap_s * 1e3:.0f}",
            f"{own_s * 1e3:.0f}",
            answered,
            str(len(took_s)),
            f"{max(took_s, default=0):.2f}",
            f"{grew / 1e6:.0f}",
        )
        console.print(" | ".join(row))
        made.add_row(*row)
    console.print(made)
    console.print(f"This machine was {slowness():.1f} times slower than the one that the bounds in the tests are from.")


@contextlib.asynccontextmanager
async def deployed() -> AsyncIterator[str]:
    """The simulated fleet, ready; its address."""
    async with deployed_alone(FLEET, ray_cpus=RAY_CPUS, store_bytes=300 * 2**20):
        yield f"http://{HOST}:{FLEET.http.port}"


async def main() -> None:
    """As the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--model", default="paced")
    parser.add_argument("--embed")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, metavar="N", help="connections that send it")
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.watch:
        await watch(asked.url, asked.model)
        return
    console = Console(file=sys.stdout, width=160)
    wanted = lambda name: asked.case in name  # noqa: E731
    if asked.url:
        await measure(console, asked.url, asked.model, asked.embed, wanted, asked.at_once)
        return
    async with deployed() as url:
        await measure(console, url, "paced", "paced", wanted, asked.at_once)


if __name__ == "__main__":
    asyncio.run(main())
