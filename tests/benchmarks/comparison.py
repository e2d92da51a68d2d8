"""Penstock beside vLLM's own server: the same engine, the same load, turn and turn about.

Both servers run through all of it. An idle vLLM spins for about a second after its last step and costs a hundredth of
a core from then on (an idle Ray costs some more); so each measurement waits that second out, and nothing is stopped or
booted in between. What the idle side and everybody else used is measured with each load and reported.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.load import LoadSpec
from tests.benchmarks.load_process import Measurement, measure
from tests.benchmarks.servers import HOST, Server, ServerPlan, running

TOKENS = 128
"""Of each answer."""
WARM_UP_S = 3.0
SETTLE_S = 1.5
_ANSWER_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """How much to measure.

    Attributes:
        rounds: Each measures every side once at every number of clients.
        clients: Numbers of clients.
        duration_s: Of one load.
    """

    rounds: int
    clients: tuple[int, ...]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured.

    Attributes:
        plan: How much.
        boot_s: Seconds from each side's start to its first answer.
        measurements: By side and number of clients, one per round.
    """

    plan: ComparisonPlan
    boot_s: dict[str, float]
    measurements: dict[tuple[str, int], list[Measurement]]


async def compare(
    sides: Sequence[ServerPlan], plan: ComparisonPlan, logs: Path, say: Callable[[str], None]
) -> Comparison:
    """Boots the sides, one after the other, warms them up, and measures them in turn.

    Raises:
        BootFailed: A side did not come up.
        LoadFailed: An answer was wrong; nothing of the run counts then.
    """
    async with AsyncExitStack() as stack:
        servers: list[Server] = []
        for side in sides:
            say(f"booting {side.name}")
            server = await stack.enter_async_context(running(side, logs / f"{side.name}.log"))
            say(f"{side.name} answered after {server.boot_s:.0f} s")
            servers.append(server)
        for server in servers:
            await measure(_spec(server, max(plan.clients), WARM_UP_S, seed=0), server.pid)
        measurements: dict[tuple[str, int], list[Measurement]] = {}
        for number in range(1, plan.rounds + 1):
            for clients in plan.clients:
                for server in servers:
                    await asyncio.sleep(SETTLE_S)
                    # Both sides are asked the same, and nobody is asked anything twice.
                    seed = number * 1000 + clients
                    measured = await measure(_spec(server, clients, plan.duration_s, seed), server.pid)
                    measurements.setdefault((server.plan.name, clients), []).append(measured)
                    say(
                        f"round {number}, {clients} clients, {server.plan.name}: {measured.load.tokens_per_s:.0f} "
                        f"tokens/s, TTFT p50 {measured.load.ttft_p50_s * 1e3:.1f} ms"
                    )
        return Comparison(plan, {server.plan.name: server.boot_s for server in servers}, measurements)


def _spec(server: Server, clients: int, duration_s: float, seed: int) -> LoadSpec:
    return LoadSpec(
        host=HOST,
        port=server.plan.port,
        model=server.plan.model,
        clients=clients,
        duration_s=duration_s,
        tokens=TOKENS,
        seed=seed,
        limit_s=duration_s + _ANSWER_LIMIT_S,
    )
