"""What a token costs the router in each API that streams: the simulated engine at a model's pace, over HTTP.

`python -m tests.benchmarks.stream_formats` asks the APIs in turn, several times, so that what else the machine does
falls on all of them. The pace is one at which no event waits for the router and is merged with the next. What counts is
the ratio to chat within one run. Goal: 1.3.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from clusters.chaos.streamed_apis import Api, counting_question, streamed_api
from tests.benchmarks.processes import CpuMeter, Role
from tests.benchmarks.report import table
from tests.benchmarks.servers import HOST, running
from tests.benchmarks.sides import MODEL, fleet_plan, simulated_options

CLIENTS = 32
LAST = 200
"""The number to which each answer counts, in about as many tokens."""
TOKENS = 1000
"""More than that takes."""
STEP_S = 0.03
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask.

    Attributes:
        api: Which API.
        fields: What the body has besides the question.
        usage: The tokens of an answer by the event that says them; nothing by the others.
    """

    api: Api
    fields: dict[str, Any]
    usage: Callable[[dict[str, Any]], Any]


def _of_response(event: dict[str, Any]) -> Any:
    return ((event.get("response") or {}).get("usage") or {}).get("output_tokens")


CHAT = "chat"
WAYS = {
    CHAT: Way(
        Api.CHAT,
        {"stream_options": {"include_usage": True}},
        lambda event: (event.get("usage") or {}).get("completion_tokens"),
    ),
    "messages": Way(Api.MESSAGES, {}, lambda event: (event.get("usage") or {}).get("output_tokens")),
    "responses": Way(Api.RESPONSES, {"store": False}, _of_response),
    "responses, stored": Way(Api.RESPONSES, {"store": True}, _of_response),
}


class Load:
    """Clients of one API at a time.

    Args:
        http: What asks.
        url: Where the fleet answers.
        model: Which model is asked.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, model: str) -> None:
        self._http = http
        self._url = url
        self._model = model

    async def tokens(self, way: Way) -> int:
        """Asks once for each client; how many tokens the answers had."""
        return sum(await asyncio.gather(*(self._ask(way) for _ in range(CLIENTS))))

    async def _ask(self, way: Way) -> int:
        streamed = streamed_api(way.api)
        body = streamed.body(self._model, counting_question(1, LAST)) | way.fields
        async with self._http.post(self._url + streamed.path, json=body) as response:
            text = await response.read()
            if response.status != 200:
                raise ValueError(f"{way.api}: {text[:500]!r}")
        events = (json.loads(line[6:]) for line in reversed(text.splitlines()) if line.startswith(b"data: {"))
        said = next((tokens for event in events if (tokens := way.usage(event))), None)
        if said is None or text.count(b"\n\n") < said:
            raise ValueError(
                f"{way.api}: an answer without its usage, or with fewer events than tokens: {text[-500:]!r}"
            )
        return int(said)


async def main(console: Console) -> None:
    """Measures, and prints the table."""
    costs: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        options = simulated_options(CLIENTS, TOKENS) | {"speed": 1, "step_time": {"base_s": STEP_S}}
        model = {"name": MODEL, "engine": "simulated", "options": options, "admission": {"max_running": CLIENTS}}
        plan = fleet_plan("paced", model, Path(folder), {})
        async with (
            running(plan, Path(folder) / "penstock.log") as server,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            load = Load(http, f"http://{HOST}:{plan.port}", plan.model)
            for number in range(ROUNDS + 1):
                for name, made in costs.items():
                    meter = CpuMeter(server.pid)
                    tokens = await load.tokens(WAYS[name])
                    if number:  # The first warms up.
                        made.append(meter.read_s()[Role.ROUTER] / tokens)
    console.print(f"CPU of the router per token, {CLIENTS} clients: medians of {ROUNDS} rounds")
    shown = table("API", "us per token", "to chat", "spread")
    for name, made in costs.items():
        ratios = [one / chat for one, chat in zip(made, costs[CHAT], strict=True)]
        shown.add_row(
            name,
            f"{statistics.median(made) * 1e6:.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    console.print(shown)


if __name__ == "__main__":
    asyncio.run(main(Console(file=sys.stdout, width=120)))
