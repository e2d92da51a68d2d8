"""A node is announced to go away, as a cloud does with a spot machine, under a load of counting clients.

`RAY_AUTH_MODE=disabled python -m tests.chaos.node_drain` starts a Ray cluster of several nodes on this machine, with an
instance on each of two, and ends with 1 if a client saw anything, or the instance was not replaced elsewhere in time.
"""

import asyncio
import sys
import time

import ray
from ray import serve
from ray._raylet import GcsClient  # type: ignore[import-not-found, unused-ignore]
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2
from rich.console import Console

from clusters.api_client import ApiClient
from clusters.chaos.counting import Arrivals, CountingLoad
from clusters.chaos.targets import Targets
from clusters.status import scrape
from deployments.app import deploy
from deployments.fleet_settings import FleetSettings
from tests.benchmarks.servers import HOST, free_port

NODES = 3
"""One more than there are instances: somewhere for the second one to go."""
CLIENTS = 20
NUMBERS = 200
WARNING_S = 60.0
STORE_BYTES = 80 * 2**20
FLEET = FleetSettings.model_validate(
    {
        "name": "node-drain",
        "http": {"host": HOST, "port": free_port()},
        "router": {"cpus": 0.2},
        "models": [
            # No time to finish: the clients keep step, and all of them may be about to end.
            {"name": "sim", "engine": "simulated", "replicas": 2, "drain_timeout_s": 0, "resources": {"place": 1}}
            | {"cpus": 0.5}
        ],
    }
)


async def drain_a_node(console: Console) -> int:
    """Announces the end of a node; 0 when nobody noticed."""
    targets, url = Targets(FLEET.name), f"http://{HOST}:{FLEET.http.port}"
    async with CountingLoad(url, "sim", Arrivals(clients=CLIENTS), NUMBERS) as load:
        await asyncio.sleep(2.0)
        load.take()
        victim = (await targets.instances())[0]
        began_s = time.monotonic()
        gcs = GcsClient(address=ray.get_runtime_context().gcs_address)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = round((time.time() + WARNING_S) * 1000)
        accepted, why_not = await asyncio.to_thread(gcs.drain_node, victim.node, reason, "test", deadline_ms)
        if not accepted:
            sys.exit(f"Ray does not drain the node: {why_not}")
        while True:
            ready = await targets.instances()
            nodes = {instance.node for instance in ready}
            if len(nodes) == 2 and victim.node not in nodes:
                break
            if time.monotonic() - began_s > WARNING_S:
                sys.exit("The node's time is up, and its instance has no successor elsewhere.")
            await asyncio.sleep(0.1)
        took_s = time.monotonic() - began_s
        await asyncio.sleep(2.0)
    tally = load.take()
    moved = (await asyncio.to_thread(scrape, ApiClient(url))).moved.get("sim", 0)
    console.print(f"successor elsewhere after {took_s:.1f} s; {moved} streams moved; {tally}", highlight=False)
    return 0 if moved and tally.is_whole and not tally.cut else 1


def main() -> int:
    """Entry point."""
    head = {"num_cpus": 2, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=1, resources={"place": 1}, object_store_memory=STORE_BYTES)
        ray.init(address=cluster.address, namespace=FLEET.name, log_to_driver=False, configure_logging=False)
        serve.start(proxy_location="Disabled")
        deploy(FLEET)
        return asyncio.run(drain_a_node(Console(width=200)))
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
