"""Runs the load in a process of its own, and accounts the servers' CPU time meanwhile."""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass

from tests.benchmarks.load import LoadResult, LoadSpec
from tests.benchmarks.processes import CpuMeter, MachineMeter, Role

_START_LIMIT_S = 60.0
_END_LIMIT_S = 30.0


class LoadFailed(Exception):
    """The load did not come to its end; the message says why."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One load on one server.

    Attributes:
        load: What the clients saw.
        cpu_s: CPU seconds of the server's processes meanwhile, by role.
        others_cpu_s: CPU seconds of whatever else ran on the machine: another server, other people's work. Large ones
            make the measurement worthless.
    """

    load: LoadResult
    cpu_s: dict[Role, float]
    others_cpu_s: float

    def cpu_per_token_s(self, role: Role) -> float:
        """CPU seconds of one role's processes per token."""
        return self.cpu_s.get(role, 0.0) / self.load.tokens

    @property
    def serving_cpu_per_token_s(self) -> float:
        """CPU seconds per token of all that stands between the engine core and the client."""
        return sum(cpu_s for role, cpu_s in self.cpu_s.items() if role.serves) / self.load.tokens

    @property
    def others_cores(self) -> float:
        """Cores that whatever else runs on the machine kept busy."""
        return self.others_cpu_s / self.load.wall_s


async def measure(spec: LoadSpec, server_pid: int) -> Measurement:
    """Makes the load on the server of that process and its descendants.

    Raises:
        LoadFailed: An answer was wrong, or it took too long.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmarks.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        process.stdin.write(json.dumps(asdict(spec)).encode() + b"\n")
        async with asyncio.timeout(_START_LIMIT_S):
            ready = await process.stdout.readline()
        if ready == b"ready\n":
            meter, machine = CpuMeter(server_pid), MachineMeter()
            process.stdin.write(b"go\n")
            async with asyncio.timeout(spec.limit_s + _END_LIMIT_S):
                line = await process.stdout.readline()
            cpu_s, machine_s = meter.read_s(), machine.read_s()
            if line:
                load = LoadResult(**json.loads(line))
                # Ticks are coarse: the difference of two sums may come out a little below nothing.
                return Measurement(load, cpu_s, max(machine_s - sum(cpu_s.values()) - load.client_cpu_s, 0.0))
        async with asyncio.timeout(_END_LIMIT_S):
            trouble = await process.stderr.read()
        raise LoadFailed(f"{spec.clients} clients: {trouble.decode('utf-8', 'replace')[-3000:]}")
    except TimeoutError:
        raise LoadFailed(f"{spec.clients} clients: the load process does not answer") from None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
