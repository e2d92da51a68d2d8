"""What one tenant feels of another: its time to the first token while the other keeps its share, and when it does not.

`python -m tests.benchmarks.fairness` deploys a fleet of one simulated engine and one router replica on a Ray of its
own, with two tenants of equal weight. Each asks at random times (Poisson), whatever comes back. First each of them asks
for its share of what the engine can do; then one asks for `--times` as much. Last, that one asks alone for everything.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console

from deployments.fleet_settings import FleetSettings
from deployments.tenants.key_file import hash_of
from tests.benchmarks.own_ray import deployed_alone
from tests.benchmarks.quantiles import quantile
from tests.benchmarks.report import table
from tests.benchmarks.servers import HOST, free_port

NAME = "fairness"
SLOTS = 64
STEP_S = 0.1
TOKENS = (32, 96)
"""Of each answer, at random: it takes a step for the prompt, and one for each token. Of one length they would all begin
and end together, and every newcomer wait for all to end.
"""
BUSY = 0.8
"""Of what the engine can do, both tenants together, when each keeps its share."""
WARM_UP_S = 15.0
QUIET = ("quiet", "quiet-key")
LOUD = ("loud", "loud-key")


@dataclass
class Told:
    """What one tenant was answered in a span of time.

    Attributes:
        from_s, until_s: The span, by `time.monotonic`.
        ttft_s: Seconds to its first token, of each request that was sent in it.
        refused: How many of those got 429.
        tokens: How many it got in it.
    """

    from_s: float
    until_s: float
    ttft_s: list[float] = field(default_factory=list)
    refused: int = 0
    tokens: int = 0


def fleet(keys: Path, port: int) -> FleetSettings:
    """The fleet, with its tenants."""
    tenants = [{"name": name, "keys": [{"sha256": hash_of(key.encode())}]} for name, key in (QUIET, LOUD)]
    keys.write_text(json.dumps({"tenants": tenants}))
    step = {"base_s": STEP_S, "prefill_token_s": 0, "decode_sequence_s": 0, "context_token_s": 0}
    return FleetSettings.model_validate(
        {
            "name": NAME,
            "http": {"host": HOST, "port": port, "keys": {"file": str(keys)}},
            "router": {"cpus": 0.1},
            "models": [
                {
                    "name": NAME,
                    "engine": "simulated",
                    "cpus": 0.1,
                    "options": {"max_num_seqs": SLOTS, "step_time": step},
                    "admission": {"max_queued": 128},
                }
            ],
        }
    )


async def ask(session: aiohttp.ClientSession, url: str, key: str, tokens: int, told: Told) -> None:
    """One request, read to its end."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "count from 1 to 100"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    began_s = time.monotonic()
    headers = {"authorization": f"Bearer {key}"}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        if response.status == 429:
            told.refused += began_s >= told.from_s
            return
        response.raise_for_status()
        first_s: float | None = None
        async for line in response.content:
            if b'"content"' in line and b'"content":""' not in line:
                now_s = time.monotonic()
                first_s = first_s or now_s
                told.tokens += told.from_s <= now_s < told.until_s
        assert first_s is not None
        if began_s >= told.from_s:
            told.ttft_s.append(first_s - began_s)


async def keep_asking(
    session: aiohttp.ClientSession, url: str, key: str, per_s: float, told: Told, chance: random.Random
) -> None:
    """Asks at random times."""
    next_s = time.monotonic()
    asked = set[asyncio.Task[None]]()
    while (next_s := next_s + chance.expovariate(per_s)) < told.until_s:
        await asyncio.sleep(next_s - time.monotonic())
        asked.add(asyncio.create_task(ask(session, url, key, chance.randint(*TOKENS), told)))
    await asyncio.gather(*asked)


async def measure(url: str, quiet_per_s: float, loud_per_s: float, lasts_s: float, seed: int) -> tuple[Told, Told]:
    """What both were answered, once it has been so for a while."""
    from_s = time.monotonic() + WARM_UP_S
    quiet, loud = (Told(from_s, from_s + lasts_s) for _ in range(2))
    timeout = aiohttp.ClientTimeout(None)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        for (name, key), per_s, told in ((QUIET, quiet_per_s, quiet), (LOUD, loud_per_s, loud)):
            if per_s:
                group.create_task(keep_asking(session, url, key, per_s, told, random.Random(f"{name}{seed}")))
    return quiet, loud


@contextlib.asynccontextmanager
async def deployed() -> AsyncIterator[str]:
    """The fleet, ready; its address."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        settings = fleet(Path(folder) / "keys.yaml", port)
        async with deployed_alone(settings, ray_cpus=8, store_bytes=300 * 2**20):
            yield f"http://{HOST}:{port}"


async def main() -> None:
    """As the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=float, default=50.0, help="its share that the loud one asks for; default 50")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load, besides its start; default 30")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    asked = parser.parse_args()
    console = Console(file=sys.stdout, width=160)
    can_per_s = SLOTS / (STEP_S * (sum(TOKENS) / 2 + 1))
    share_per_s = BUSY * can_per_s / 2
    made = table("load", "quiet: TTFT p50, ms", "p95", "refused", "loud: TTFT p50, ms", "refused", "tokens/s, both")
    medians: dict[str, list[float]] = {}
    async with deployed() as url:
        for number in range(asked.rounds):
            for name, quiet_per_s, loud_per_s in (
                ("both their share", share_per_s, share_per_s),
                (f"loud {asked.times:g} times its share", share_per_s, asked.times * share_per_s),
                ("loud alone, all it can get", 0.0, 2 * can_per_s),
            ):
                quiet, loud = await measure(url, quiet_per_s, loud_per_s, asked.seconds, number)
                if quiet.ttft_s:
                    medians.setdefault(name, []).append(statistics.median(quiet.ttft_s))
                row = (
                    name,
                    *(f"{quantile(quiet.ttft_s, part) * 1e3:.0f}" if quiet.ttft_s else "" for part in (0.5, 0.95)),
                    str(quiet.refused),
                    f"{quantile(loud.ttft_s, 0.5) * 1e3:.0f}" if loud.ttft_s else "",
                    str(loud.refused),
                    f"{(quiet.tokens + loud.tokens) / asked.seconds:.0f}",
                )
                console.print(" | ".join(row))
                made.add_row(*row)
    console.print(made)
    shared, loud_ones = medians.values()
    each = [after / before for before, after in zip(shared, loud_ones, strict=True)]
    console.print(
        f"The quiet one's median grew {statistics.median(each):.2f} times ({min(each):.2f} to {max(each):.2f}); "
        f"wanted: less than 1.5. The engine can do {SLOTS / STEP_S:.0f} tokens/s."
    )


if __name__ == "__main__":
    asyncio.run(main())
