"""The load: so many clients, each asking again as soon as it was answered, for so many seconds.

`python -m tests.benchmarks.load` is the process that makes it, apart from the servers and from what measures them. It
reads a LoadSpec from its first line of input, connects, says `ready`, waits for a line, and writes a LoadResult.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import uvloop

from tests.benchmarks.connection import Answer, Connection
from tests.benchmarks.prompts import chat_request, prompt
from tests.benchmarks.quantiles import quantile


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What load to make.

    Attributes:
        host, port: Where the server listens.
        model: What to ask for.
        clients: Requests under way at a time.
        duration_s: No request is sent after so long; those under way then are finished and counted.
        tokens: Tokens of each answer, no more and no fewer.
        seed: Of the prompts; the same seed asks the same.
        limit_s: The load has failed when it is not over after so long.
    """

    host: str
    port: int
    model: str
    clients: int
    duration_s: float
    tokens: int
    seed: int
    limit_s: float


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the clients saw. Every answer was complete and correct, or there is no result.

    Attributes:
        requests: Answers.
        tokens: Tokens of all answers, by their usage.
        wall_s: From the first request to the end of the last answer.
        events: SSE events of all answers; fewer than tokens where a server puts several into one.
        prompt_tokens: Mean length of the prompts.
        ttft_p50_s, ttft_p99_s: From a request to its first output.
        itl_p50_s, itl_p99_s: Between two reads that brought output of one answer.
        client_cpu_s: CPU time of the load process itself.
    """

    requests: int
    tokens: int
    wall_s: float
    events: int
    prompt_tokens: float
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p50_s: float
    itl_p99_s: float
    client_cpu_s: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second over all clients."""
        return self.tokens / self.wall_s

    @property
    def client_cpu_per_token_s(self) -> float:
        """CPU seconds of the load process per token."""
        return self.client_cpu_s / self.tokens


async def make_load(spec: LoadSpec, connections: list[Connection]) -> LoadResult:
    """Makes the load over connections that are open already, one for each client.

    Raises:
        BadAnswer: An answer was wrong.
    """
    numbers = count()
    answers: list[Answer] = []
    cpu_before_s = time.process_time()
    began_s = time.perf_counter()

    async def ask_on(connection: Connection) -> None:
        while time.perf_counter() - began_s < spec.duration_s:
            text = prompt(spec.seed, next(numbers))
            request = chat_request(f"{spec.host}:{spec.port}", spec.model, text, spec.tokens)
            answers.append(await connection.post(request, spec.tokens))

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(ask_on(connection))
    wall_s = time.perf_counter() - began_s
    cpu_s = time.process_time() - cpu_before_s
    ttfts = [answer.ttft_s for answer in answers]
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    return LoadResult(
        requests=len(answers),
        tokens=spec.tokens * len(answers),
        wall_s=wall_s,
        events=sum(answer.reader.events for answer in answers),
        prompt_tokens=sum(answer.reader.prompt_tokens or 0 for answer in answers) / len(answers),
        ttft_p50_s=quantile(ttfts, 0.5),
        ttft_p99_s=quantile(ttfts, 0.99),
        itl_p50_s=quantile(gaps, 0.5),
        itl_p99_s=quantile(gaps, 0.99),
        client_cpu_s=cpu_s,
    )


async def _main() -> None:
    fields: dict[str, Any] = json.loads(sys.stdin.readline())
    spec = LoadSpec(**fields)
    connections = [await Connection.open(spec.host, spec.port) for _ in range(spec.clients)]
    _say("ready")
    sys.stdin.readline()
    async with asyncio.timeout(spec.limit_s):
        result = await make_load(spec, connections)
    _say(json.dumps(asdict(result)))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_main())
