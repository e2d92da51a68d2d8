"""What a token costs the router in each API that streams: the simulated engine at speed zero, over HTTP.

`python -m tests.benchmarks.stream_formats` asks the APIs in turn, several times, so that what else the machine does
falls on all of them. What counts is the ratio to chat within one run. Goal: 1.3.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from clusters.chaos.streamed_apis import Api, StreamedApi, streamed_api
from tests.benchmarks.processes import CpuMeter, Role
from tests.benchmarks.prompts import prompt
from tests.benchmarks.report import table
from tests.benchmarks.servers import HOST, running
from tests.benchmarks.sides import simulated_plan

CLIENTS = 32
TOKENS = 256
ROUNDS = 7
ROUND_S = 4.0
LENGTH_FIELDS = {Api.CHAT: "max_tokens", Api.RESPONSES: "max_output_tokens", Api.MESSAGES: "max_tokens"}
USAGE: dict[Api, Callable[[dict[str, Any]], Any]] = {
    Api.CHAT: lambda event: (event.get("usage") or {}).get("completion_tokens"),
    Api.RESPONSES: lambda event: ((event.get("response") or {}).get("usage") or {}).get("output_tokens"),
    Api.MESSAGES: lambda event: (event.get("usage") or {}).get("output_tokens"),
}
"""The tokens of an answer by the event that says them; nothing by the others."""


class Load:
    """Clients of one API at a time, each of which asks again as soon as it was answered.

    Args:
        http: What asks.
        url: Where the fleet answers.
        model: Which model is asked.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, model: str) -> None:
        self._http = http
        self._url = url
        self._model = model
        self._numbers = count()

    async def tokens(self, api: Api) -> int:
        """Asks for a while; how many tokens the answers had."""
        end_s = time.monotonic() + ROUND_S
        return sum(await asyncio.gather(*(self._client(api, end_s) for _ in range(CLIENTS))))

    async def _client(self, api: Api, end_s: float) -> int:
        tokens = 0
        while time.monotonic() < end_s:
            tokens += await self._ask(api, streamed_api(api))
        return tokens

    async def _ask(self, api: Api, streamed: StreamedApi) -> int:
        body = streamed.body(self._model, prompt(1, next(self._numbers))) | {
            LENGTH_FIELDS[api]: TOKENS,
            "temperature": 1.0,
            "ignore_eos": True,
        }
        if api is Api.CHAT:
            body["stream_options"] = {"include_usage": True}
        async with self._http.post(self._url + streamed.path, json=body) as response:
            text = await response.read()
            if response.status != 200:
                raise ValueError(f"{api}: {text[:500]!r}")
        events = (json.loads(line[6:]) for line in reversed(text.splitlines()) if line.startswith(b"data: {"))
        said = next((tokens for event in events if (tokens := USAGE[api](event))), None)
        if said != TOKENS:
            raise ValueError(f"{api}: an answer has {said} tokens by its usage, not {TOKENS}")
        return TOKENS


async def main(console: Console) -> None:
    """Measures, and prints the table."""
    costs: dict[Api, list[float]] = {api: [] for api in LENGTH_FIELDS}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        plan = simulated_plan(Path(folder), streams=CLIENTS, tokens=TOKENS)
        async with (
            running(plan, Path(folder) / "penstock.log") as server,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            load = Load(http, f"http://{HOST}:{plan.port}", plan.model)
            for number in range(ROUNDS + 1):
                for api, made in costs.items():
                    meter = CpuMeter(server.pid)
                    tokens = await load.tokens(api)
                    if number:  # The first warms up.
                        made.append(meter.read_s()[Role.ROUTER] / tokens)
    console.print(f"CPU of the router per token, {CLIENTS} clients, {TOKENS} tokens each: medians of {ROUNDS} rounds")
    shown = table("API", "us per token", "to chat", "spread")
    for api, made in costs.items():
        ratios = [one / chat for one, chat in zip(made, costs[Api.CHAT], strict=True)]
        shown.add_row(
            api.value,
            f"{statistics.median(made) * 1e6:.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    console.print(shown)


if __name__ == "__main__":
    asyncio.run(main(Console(file=sys.stdout, width=120)))
