"""A cluster of three nodes whose network breaks and whose head dies, under a load of counting clients.

The head has no CPUs, and so neither router nor instance; each of the two others has a router and instances. As root.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from clusters.api_client import PLAIN_HOSTS_ENV, ApiClient
from clusters.chaos.answer import Tally
from clusters.chaos.counting import Arrivals, CountingLoad
from clusters.errors import ClusterError
from deployments.fleet_settings import KEYS_ENV
from tests.clusters.conftest import BOOT_S
from tests.clusters.ray_nodes import KEY, RayNodes, ray_nodes
from tests.clusters.ray_ports import HTTP
from tests.metric_text import labels
from tests.redis import redis

pytestmark = pytest.mark.long

PARTITION_S = 10.0
AWAY_S = 20.0
"""How long the cluster is without its control service before a new head is started."""
CLIENTS = 8
NUMBERS = 100
REDIS_PORT = 6399
FLEET = f"""
name: guest
router: {{replicas: 2, per_node: true, cpus: 0.1}}
http: {{host: 0.0.0.0, port: {HTTP}}}
models:
  - {{name: sim, engine: simulated, replicas: 4, cpus: 1, surge_percent: 25, health: {{period_s: 1}}}}
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster, and its fleet.

    Attributes:
        nodes: The nodes, the head first.
        urls: Where the routers answer.
        head: The environment of a head's processes.
    """

    nodes: RayNodes
    urls: list[str]
    head: dict[str, str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("home")
    with (
        ray_nodes(home, "pst3", "10.80.0") as nodes,
        redis(nodes.network.address, REDIS_PORT) as kept,
        pytest.MonkeyPatch.context() as own,
    ):
        # A raylet ends once it was without the control service for so long; 60 s, if nothing is said.
        patient = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
        head = {**patient, "RAY_REDIS_ADDRESS": kept}
        nodes.add(nodes.network.add(), head, cpus=0)
        for _ in range(2):
            nodes.add(nodes.network.add(), patient, cpus=4)
        own.setenv(KEYS_ENV, KEY)
        own.setenv(PLAIN_HOSTS_ENV, ",".join(node.address for node in nodes.nodes))
        nodes.serve({}, FLEET)
        yield Cluster(nodes, [f"http://{node.address}:{HTTP}" for node in nodes.nodes[1:]], head)


def told(url: str, metric: str) -> list[dict[str, str]]:
    """The labels of each sample of a metric."""
    return labels(ApiClient(url).get_text("/metrics"), metric)


async def until_whole(url: str, routers: int = 2, instances: int = 4, besides: frozenset[str] = frozenset()) -> None:
    """Returns once the fleet has so many routers and ready instances, without those named."""
    async with asyncio.timeout(BOOT_S):
        while True:
            try:
                answering = await asyncio.to_thread(told, url, "penstock_router_info")
                info = await asyncio.to_thread(told, url, "penstock_instance_info")
            except ClusterError:
                answering, info = [], []  # The directory is away, and with it the other replicas' figures.
            ready = {one["instance"] for one in info if one["state"] == "ready"}
            if (len(answering), len(ready)) == (routers, instances) and ready.isdisjoint(besides):
                return
            await asyncio.sleep(0.2)


def assert_nothing_was_lost(tally: Tally) -> None:
    assert tally.served and tally.is_whole and not tally.cut, tally


async def test_a_node_without_network_for_ten_seconds_costs_no_client_anything(cluster: Cluster) -> None:
    near, _ = cluster.urls
    far = cluster.nodes.nodes[2]
    async with CountingLoad(near, "sim", Arrivals(clients=CLIENTS), NUMBERS) as load:
        await load.is_read()
        far.cut()
        await asyncio.sleep(PARTITION_S)
        far.mend()
        await until_whole(near)
    assert_nothing_was_lost(load.take())
    moves = await asyncio.to_thread(told, near, "penstock_migrations_total")
    assert any((move["cause"], move["outcome"]) == ("silent", "continued") for move in moves), moves
    # It is asked again, and by its own address too.
    assert await asyncio.to_thread(ApiClient(cluster.urls[1]).models) == ["sim"]


async def test_an_upgrade_with_a_router_on_each_node(cluster: Cluster) -> None:
    url = cluster.urls[0]
    before = frozenset(one["instance"] for one in await asyncio.to_thread(told, url, "penstock_instance_info"))
    routers = {one["router"] for one in await asyncio.to_thread(told, url, "penstock_router_info")}
    async with CountingLoad(url, "sim", Arrivals(clients=CLIENTS), NUMBERS) as load:
        await asyncio.to_thread(cluster.nodes.serve, {}, FLEET)
        await until_whole(url, besides=before)
    assert_nothing_was_lost(load.take())
    after = await asyncio.to_thread(told, url, "penstock_router_info")
    assert len({one["node"] for one in after}) == 2 and routers.isdisjoint(one["router"] for one in after)


async def test_streams_run_on_while_the_head_is_away_and_a_new_one_goes_on_from_redis(cluster: Cluster) -> None:
    url = cluster.urls[0]
    async with CountingLoad(url, "sim", Arrivals(clients=CLIENTS), NUMBERS) as load:
        await load.is_read()
        await asyncio.to_thread(cluster.nodes.kill_gcs)
        load.take()
        await asyncio.sleep(AWAY_S)
        while_away = load.take()
        await asyncio.to_thread(cluster.nodes.revive_head, cluster.head, 0)
        await until_whole(url)
        # Serve's controller is back, too, and does what it is told.
        before = frozenset(one["instance"] for one in await asyncio.to_thread(told, url, "penstock_instance_info"))
        await asyncio.to_thread(cluster.nodes.serve, {}, FLEET)
        await until_whole(url, besides=before)
    assert_nothing_was_lost(while_away)
    assert_nothing_was_lost(load.take())
