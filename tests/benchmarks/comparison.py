"""Penstock beside vLLM's own server: the same engine, the same load, turn and turn about.

Both servers are up all the time. An idle vLLM spins for a second after its last step and then costs a hundredth of a
core; an idle Ray costs a tenth of one, which on a small machine would be a handicap for whoever it stands beside. So
the side whose turn it is not is suspended, all its processes at once. Ray bears that for as long as a load takes, and
before a side is measured again it must have given an answer, and answered a short load.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.load import LoadSpec
from tests.benchmarks.load_process import Measurement, measure
from tests.benchmarks.processes import frozen
from tests.benchmarks.servers import HOST, Server, ServerPlan, answer, running

TOKENS = 128
"""Of each answer."""
WARM_UP_S = 3.0
SETTLE_S = 1.0
WAKE_UP_S = 1.0
"""Of a first load that is not counted, before each one that is: a side that was suspended is slow at first."""
MAX_DURATION_S = 10.0
"""Of one load. A Ray that was suspended for much longer takes its own parts for dead."""
_ANSWER_LIMIT_S = 120.0
_WAKE_LIMIT_S = 30.0


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
        NoAnswer: A side did not come back after its suspension.
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
                    # Both sides are asked the same, and nobody is asked anything twice.
                    spec = _spec(server, clients, plan.duration_s, seed=number * 1000 + clients)
                    with frozen(other.pid for other in servers if other is not server):
                        await asyncio.sleep(SETTLE_S)
                        await answer(server.plan, _WAKE_LIMIT_S)
                        await measure(_spec(server, clients, WAKE_UP_S, seed=spec.seed + 500_000), server.pid)
                        measured = await measure(spec, server.pid)
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
