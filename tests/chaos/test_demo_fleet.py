"""Real vLLM: whatever is killed in the middle of an answer, or by one, the answers are those of an undisturbed run."""

import asyncio
import json
import re
from typing import Any

import aiohttp
import pytest

from clusters.chaos.answer import Tally
from clusters.chaos.counting import Arrivals, CountingLoad
from tests.chaos.exact_kills import KILLS, check_kills
from tests.clusters.conftest import Terminal, free_port
from tests.deployments.waiting import until
from tests.engines.vllm.booted import POISON, POISON_SEED
from tests.lazily import needs

needs("vllm", "the demo fleet runs on vLLM")

BOOT_S = 900.0
ANSWER_S = 300.0
SLOTS = 8
"""So many requests the engines below work on at a time."""
CLIENTS = 14
"""More than that: a request more waits in an engine's queue for some seconds."""
POISONED: dict[str, Any] = {
    "name": "poisoned",
    "router": {"replicas": 1, "cpus": 0.1},
    "models": [
        {
            "name": "demo",
            "engine": "vllm",
            "replicas": 4,
            "cpus": 0.25,
            "options": {
                "model": "demo",
                "kv_cache_bytes": 64 * 2**20,
                "max_num_seqs": 2,
                "enforce_eager": True,
                "engine_args": POISON,
            },
        }
    ],
}


@pytest.mark.long
def test_every_answer_is_that_of_an_undisturbed_run(shared_terminal: Terminal) -> None:
    penstock = shared_terminal.start("serve", "--port", str(free_port()))
    penstock.wait_for("Ctrl-C ends it.", BOOT_S)
    check_kills(shared_terminal.environment, *range(1, len(KILLS) + 1))
    assert penstock.interrupt() == 0, penstock.output


@pytest.mark.long
def test_a_request_that_has_waited_in_the_engines_queue_and_is_their_end_takes_three_at_most(
    shared_terminal: Terminal,
) -> None:
    # JSON is YAML.
    (shared_terminal.home / "poisoned.yaml").write_text(json.dumps(POISONED))
    port = free_port()
    penstock = shared_terminal.start("serve", "poisoned.yaml", "--port", str(port))
    penstock.wait_for("Ctrl-C ends it.", BOOT_S)
    sent, tally = asyncio.run(_poison(f"http://127.0.0.1:{port}"))
    assert sent == [(500, "engine_fault"), (422, "quarantined"), (422, "quarantined")]
    assert tally.is_whole and not tally.cut and tally.served >= CLIENTS, tally
    assert penstock.interrupt() == 0, penstock.output
    assert 2 <= len(set(re.findall(r"(\S+)  gone  The engine died", penstock.output))) <= 3, penstock.output


async def _poison(url: str) -> tuple[list[tuple[int, str]], Tally]:
    """What became of the poison, sent again and again, and of those that counted beside it."""
    question = {"role": "user", "content": "count from 1 to 5"}
    body = {"model": "demo", "messages": [question], "temperature": 0, "seed": POISON_SEED}
    sent = []
    async with CountingLoad(url, "demo", Arrivals(clients=CLIENTS), 300) as load, aiohttp.ClientSession() as http:
        await until(lambda: len(load.open) == SLOTS)
        for _ in range(3):
            timeout = aiohttp.ClientTimeout(ANSWER_S)
            async with http.post(f"{url}/v1/chat/completions", json=body, timeout=timeout) as answer:
                sent.append((answer.status, (await answer.json())["error"]["code"]))
    return sent, load.take()
