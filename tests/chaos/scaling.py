"""A fleet goes from no instance to three and back to none, under an open load, while its controller and a router die.

`python -m tests.chaos.scaling [routers]` starts a Ray of its own, with another application deployed by a config before
the fleet. It ends with 1 if an answer lost or repeated anything, broke elsewhere than at the router that was killed, or
if the fleet did not grow and go to sleep again. With `routers`, these scale it themselves.
"""

import asyncio
import sys
import time
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema
from rich.console import Console

from clusters.api_client import ApiClient
from clusters.chaos.answer import Tally
from clusters.chaos.counting import Arrivals, CountingLoad
from clusters.chaos.targets import Targets
from clusters.errors import ClusterError
from clusters.status import scrape
from deployments.app import deploy
from deployments.fleet_settings import FleetSettings
from tests.benchmarks.servers import HOST, free_port
from tests.own_ray import start_ray

NUMBERS = 100
PER_S = 1.2
"""What two instances and a half are busy with."""
IDLE_S = 10.0
DEADLINE_S = 120.0
FLEET = FleetSettings.model_validate(
    {
        "name": "scaling",
        "autoscaler": "routers" if "routers" in sys.argv else "serve",
        "http": {"host": HOST, "port": free_port()},
        "router": {"replicas": 2, "cpus": 0.1},
        "models": [
            {
                "name": "sim",
                "engine": "simulated",
                "replicas": {"min": 0, "max": 3, "idle_s": IDLE_S, "output_tokens_per_s": 100},
                "cpus": 0.1,
                # A hundred tokens a second for all four that run together.
                "options": {"max_num_seqs": 4, "step_time": {"base_s": 0.04}},
                "health": {"period_s": 1},
            }
        ],
    }
)


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0})
class Neighbour:
    """Another application, deployed by a config."""

    def __call__(self) -> str:
        return "here"


neighbour = Neighbour.bind()


class Watch:
    """How many instances were ready, and when."""

    def __init__(self, targets: Targets, console: Console) -> None:
        self.targets = targets
        self.ready = 0
        self.seen: list[int] = []
        self._console = console
        self._began_s = time.monotonic()

    async def run(self) -> None:
        while True:
            self.ready = len(await self.targets.instances())
            if not self.seen or self.seen[-1] != self.ready:
                self.seen.append(self.ready)
                self.say(f"{self.ready} ready")
            await asyncio.sleep(0.2)

    def say(self, text: str) -> None:
        self._console.print(f"{time.monotonic() - self._began_s:6.1f} s  {text}", highlight=False)

    async def until(self, ready: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.ready != ready:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def scale(console: Console) -> Tally:
    """Everything, one after another; what the clients saw."""
    targets, client = Targets(FLEET.name), ApiClient(f"http://{HOST}:{FLEET.http.port}")
    watch = Watch(targets, console)
    watching = asyncio.create_task(watch.run())
    await _until_ready(client)
    await watch.until(0)  # With `routers` it begins with one.
    (model,) = (await asyncio.to_thread(client.get_json, "/v1/models"))["data"]
    assert (model["status"], watch.ready) == ("asleep", 0), model
    watch.say("ready, and asleep")
    tally = Tally()
    async with CountingLoad(client.url, "sim", Arrivals(per_s=PER_S), NUMBERS) as load:
        watch.say("every question was asked once")
        await targets.kill(await targets.controller())
        watch.say("controller killed")
        await watch.until(3)
        await load.is_read()
        before = load.take()
        await targets.kill_a_router()
        watch.say("router killed")
        await asyncio.sleep(15.0)
        tally.add(before)
    tally.add(load.take())
    assert before.cut == 0, before
    watch.say(f"the load is over: {tally}")
    await watch.until(0)
    (model,) = (await asyncio.to_thread(client.get_json, "/v1/models"))["data"]
    assert model["status"] == "asleep", model
    watching.cancel()
    await _until_told(client)
    assert serve.status().applications["neighbour"].status == "RUNNING"
    console.print(f"ready one after another: {watch.seen}; {tally}", highlight=False, soft_wrap=True)
    return tally


async def _until_told(client: ApiClient) -> None:
    """Waits until the fleet tells what its policy decided."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            figures = await asyncio.to_thread(scrape, client)
            if (figures.targets, figures.held, figures.is_silent) == ({"sim": 0}, {"sim": 0}, False):
                return
            await asyncio.sleep(0.5)


async def _until_ready(client: ApiClient) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread(_is_ready, client):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def _is_ready(client: ApiClient) -> bool:
    try:
        return bool(client.get_json("/ready")["status"] == "ready")
    except ClusterError:
        return False


def main() -> int:
    """Entry point."""
    console = Console(width=200)
    start_ray(num_cpus=8, object_store_memory=100 * 2**20)
    try:
        serve.start(proxy_location="Disabled")
        other: dict[str, Any] = {"name": "neighbour", "route_prefix": None, "import_path": f"{__spec__.name}:neighbour"}
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [other]}))
        deploy(FLEET, wait=False)
        tally = asyncio.run(scale(console))
    finally:
        serve.shutdown()
        ray.shutdown()
    return 0 if tally.is_whole and tally.served else 1


if __name__ == "__main__":
    sys.exit(main())
