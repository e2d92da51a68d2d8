"""Penstock's server with a simulated engine in one process, without Ray: a provider that comes and goes in a second.

As a program: `python -m tests.clusters.server_without_ray PORT`; it says `ready` and ends when its input does.
"""

import asyncio
import subprocess
import sys

from deployments.fleet_settings import HttpSettings
from deployments.http.ingress import HttpIngress
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from engines.registry import EngineSpec, make_engine
from tests.clusters.conftest import ROOT, free_port

MODEL = "sim"


class ServerWithoutRay:
    """One that is started and stopped, always at the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        if self._process is None:
            command = [sys.executable, "-m", "tests.clusters.server_without_ray", str(self.port)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.communicate(timeout=60)
            assert process.returncode == 0


async def _serve(port: int) -> None:
    engine = make_engine("sim-0", EngineSpec(kind="simulated", model=MODEL, options={"speed": 0}))
    fleet = LocalFleet({MODEL: [engine]})
    await fleet.start()
    ingress = HttpIngress(fleet, HttpSettings(port=port), Metrics())
    await ingress.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await ingress.stop(0)
    await fleet.stop()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
