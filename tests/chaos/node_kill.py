"""A node dies with two instances of a model, under a load of counting clients; four others live on two more nodes.

`RAY_AUTH_MODE=disabled python -m tests.chaos.node_kill` kills a node's every process, again and again, each time after
a new one has taken its place. With `--cut` it cuts the node's network instead (as root): nobody hears a connection
break. With `--fade` an instance of the node dies first, and then the network: what moved from it to the node's other
instance breaks again. It ends with 1 if an answer broke, lost or repeated anything, or paused longer than `--pause`.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

import ray
from ray import serve
from rich.console import Console

from clusters.api_client import ApiClient
from clusters.chaos.answer import Answer
from clusters.chaos.counting import Arrivals, CountingLoad
from clusters.chaos.targets import Targets
from clusters.errors import ClusterError
from clusters.status import scrape
from deployments.app import deploy
from deployments.fleet_settings import FleetSettings
from tests.benchmarks.servers import HOST, free_port
from tests.chaos.killable_nodes import CutNodes, KillableNodes, KilledNodes

NODES = 3
PLACES = 2
"""Instances of each node."""
WARM_UP_S = 2.0
ANSWER_S = 120.0
"""An answer that has not ended by then never does."""
REPLACED_S = 240.0
FLEET = FleetSettings.model_validate(
    {
        "name": "node-kill",
        "http": {"host": HOST, "port": free_port()},
        # Only the head has CPUs: the router lives there.
        "router": {"cpus": 0.2},
        "models": [
            {"name": "sim", "engine": "simulated", "replicas": NODES * PLACES, "resources": {"place": 1}, "cpus": 0}
            | {"options": {"step_time": {"base_s": 0.04}}}
        ],
    }
)


async def kill_nodes(nodes: KillableNodes, times: int, clients: int, numbers: int, pause_s: float) -> int:
    """Lets so many nodes die, one after another; 0 when no client saw more than a short pause."""
    console = Console(width=200, highlight=False)
    targets, url = Targets(FLEET.name), f"http://{HOST}:{FLEET.http.port}"
    is_good = True
    async with CountingLoad(url, "sim", Arrivals(clients=clients), numbers) as load:
        for number in range(1, times + 1):
            await asyncio.sleep(WARM_UP_S)
            load.take()
            moved = await _moved(url)
            hit: list[Answer] = []
            holding = {instance.node for instance in await targets.instances()}
            victim = (await targets.killable_nodes() & holding).pop()
            taken = await nodes.end(victim, targets, lambda hit=hit: hit.extend(load.open))
            began_s = time.monotonic()
            hit = [answer for answer in hit if answer.instance in taken]
            while not load.open.isdisjoint(hit) and time.monotonic() < began_s + ANSWER_S:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            tally = load.take()
            moves = await _moved(url) - moved
            pauses_s = sorted(answer.pause_s for answer in hit)
            p50_s, p99_s, longest_s = (_at(pauses_s, share) for share in (0.5, 0.99, 1.0))
            console.print(
                f"node {number}: {len(hit)} streams on it, {moves} moves; pause p50 {p50_s:.2f} s, p99 {p99_s:.2f} s, "
                f"longest {longest_s:.2f} s; served {tally.served}, refused {tally.refused}, broken {tally.failed}, "
                f"cut {tally.cut}, lost {tally.lost}, repeated {tally.repeated}"
            )
            for reason in sorted(tally.reasons):
                console.print(f"error: {reason}", style="red", markup=False)
            is_good &= bool(hit) and tally.is_whole and not tally.cut and longest_s <= pause_s
            if number < times:
                await nodes.add({"place": PLACES})
                while len(await targets.instances()) < NODES * PLACES:
                    if time.monotonic() > began_s + REPLACED_S:
                        sys.exit("The instances have no successors.")
                    await asyncio.sleep(0.1)
                console.print(f"        whole again after {time.monotonic() - began_s:.1f} s")
    return 0 if is_good else 1


async def _moved(url: str) -> int:
    deadline_s = time.monotonic() + REPLACED_S
    while True:
        try:
            return (await asyncio.to_thread(scrape, ApiClient(url))).moved.get("sim", 0)
        except ClusterError:
            # The directory was on that node, and the routers tell each other their figures through it.
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.1)


def _at(seconds: Sequence[float], share: float) -> float:
    return seconds[round(share * (len(seconds) - 1))] if seconds else 0.0


async def run(nodes: KillableNodes, arguments: argparse.Namespace) -> int:
    """Starts the nodes and the fleet, and lets nodes die."""
    for _ in range(NODES):
        await nodes.add({"place": PLACES})
    await asyncio.to_thread(serve.start, proxy_location="Disabled")
    await asyncio.to_thread(deploy, FLEET)
    return await kill_nodes(nodes, arguments.times, arguments.clients, arguments.numbers, arguments.pause)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cut", action="store_true", help="cut the node's network instead of killing its processes")
    parser.add_argument("--fade", action="store_true", help="kill one of its instances, and then cut the network")
    parser.add_argument("--times", type=int, default=3, help="how many nodes die, one after another")
    parser.add_argument("--clients", type=int, default=48, help="how many clients count at a time")
    parser.add_argument("--numbers", type=int, default=100, help="numbers of each answer")
    parser.add_argument("--pause", type=float, default=2.0, help="the longest pause that is good, in seconds")
    arguments = parser.parse_args()
    nodes: KillableNodes = CutNodes(fade=arguments.fade) if arguments.cut or arguments.fade else KilledNodes()
    try:
        ray.init(address=nodes.address, namespace=FLEET.name, log_to_driver=False, configure_logging=False)
        return asyncio.run(run(nodes, arguments))
    finally:
        ray.shutdown()
        nodes.close()


if __name__ == "__main__":
    sys.exit(main())
