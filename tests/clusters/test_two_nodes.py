"""A fleet on two nodes, each with a router replica, as docs/clusters.md has it: from nothing, to zero and back."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters.api_client import PLAIN_HOSTS_ENV, ApiClient
from clusters.chaos.answer import Tally
from clusters.chaos.counting import Arrivals, CountingLoad
from deployments.fleet_settings import KEYS_ENV
from tests.clusters.conftest import BOOT_S
from tests.clusters.ray_nodes import KEY, RayNodes, ray_nodes
from tests.clusters.ray_ports import HTTP
from tests.metric_text import labels
from tests.prometheus import prometheus

# Two nodes, five waits for a boot: it takes minutes.
pytestmark = pytest.mark.long

FLEET = f"""
name: guest
router: {{replicas: {{min: 2, max: 4}}, per_node: true, cpus: 0.1}}
http: {{host: 0.0.0.0, port: {HTTP}}}
models:
  - name: sim
    engine: simulated
    replicas: {{min: 0, max: 2, idle_s: 3}}
    cpus: 1
    surge_percent: 100
    options: {{speed: 1}}
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two nodes with a fleet.

    Attributes:
        nodes: The nodes.
        said: What `penstock serve` has said.
        urls: Where their routers answer.
    """

    nodes: RayNodes
    said: str
    urls: list[str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with (
        ray_nodes(tmp_path_factory.mktemp("home"), "pst2", "10.79.0") as nodes,
        pytest.MonkeyPatch.context() as environment,
    ):
        for machine in [nodes.network.add(), nodes.network.add()]:
            nodes.add(machine, {})
        # This process asks as a client beside them does.
        environment.setenv(KEYS_ENV, KEY)
        environment.setenv(PLAIN_HOSTS_ENV, ",".join(node.address for node in nodes.nodes))
        yield Cluster(nodes, nodes.serve({}, FLEET), [f"http://{node.address}:{HTTP}" for node in nodes.nodes])


def routers(url: str) -> dict[str, str]:
    """The node of each router replica, by its name."""
    found = labels(ApiClient(url).get_text("/metrics"), "penstock_router_info")
    return {one["router"]: one["node"] for one in found}


def test_it_says_where_it_answers_and_each_of_these_does(cluster: Cluster) -> None:
    assert f"Answers at {', '.join(cluster.urls)}." in cluster.said, cluster.said
    assert f"Ready: {cluster.urls[0]}/v1" in cluster.said
    assert "An API key is asked for: a request without one got 401." in cluster.said
    for url in cluster.urls:
        assert ApiClient(url).models() == ["sim"]


def test_it_wakes_where_it_is_asked_and_serves_from_every_address(cluster: Cluster) -> None:
    (card,) = ApiClient(cluster.urls[0]).get_json("/v1/models")["data"]
    assert card["status"] == "asleep"
    for url in cluster.urls:
        asked = [{"role": "user", "content": "count from 1 to 3"}]
        assert "".join(text(chunk) for chunk in ApiClient(url).stream_chat("sim", asked)).strip() == "1 2 3"


def text(chunk: dict[str, Any]) -> str:
    return str(chunk["choices"][0]["delta"].get("content") or "") if chunk["choices"] else ""


def test_status_shows_both_nodes_and_what_the_autoscaler_wants(cluster: Cluster) -> None:
    deadline_s = time.monotonic() + BOOT_S
    while True:
        allowed = {PLAIN_HOSTS_ENV: cluster.nodes.nodes[0].address}
        said = cluster.nodes.penstock("status", "--url", cluster.urls[0], **allowed)
        rows = [line.split() for line in said.splitlines()]
        shown = {row[1]: row[-1] for row in rows if len(row) == 6 and row[-1].endswith(f":{HTTP}")}
        model = next((row for row in rows if row[:2] == ["sim", "asleep"]), None)
        if model is not None and len(shown) == 2:
            break
        assert time.monotonic() < deadline_s, said
    assert shown == {node.address: f"{node.address}:{HTTP}" for node in cluster.nodes.nodes}
    tokens_per_s, target, reason = model[2:5]
    assert (tokens_per_s, target) == ("0", "0") and reason in {"(idle)", "(enough)"}, said


def test_prometheus_reads_the_same_of_both_routers(cluster: Cluster, tmp_path: Path) -> None:
    addresses = [url.removeprefix("http://") for url in cluster.urls]
    with prometheus(tmp_path, addresses, KEY) as server:
        up = server.until('up{job="penstock"} == 1', 2)
        assert {labels["instance"] for labels, _ in up} == set(addresses)
        assert [target["lastError"] for target in server.targets()] == ["", ""]
        # Every router tells the whole fleet's figures, under our names and under those of the field.
        for name in ("penstock_generation_tokens_total", "vllm:generation_tokens_total"):
            told = server.until(f"{name} > 0", 2)
            assert len({value for _, value in told}) == 1, told
        nodes = server.until("penstock_node_info", 4)
        assert {labels["address"] for labels, _ in nodes} == {node.address for node in cluster.nodes.nodes}
        (target, _), _ = server.until("penstock_autoscaling_target_instances", 2)
        assert target["model"] == "sim"


async def test_an_upgrade_replaces_each_router_on_its_node_and_no_client_notices(cluster: Cluster) -> None:
    before = await asyncio.to_thread(routers, cluster.urls[0])
    assert len(before) == len(set(before.values())) == 2, before
    tally = Tally()
    async with (
        CountingLoad(cluster.urls[0], "sim", Arrivals(clients=4), 60) as first,
        CountingLoad(cluster.urls[1], "sim", Arrivals(clients=4), 60) as second,
    ):
        await asyncio.to_thread(cluster.nodes.serve, {}, FLEET)
        async with asyncio.timeout(BOOT_S):
            while not before.keys().isdisjoint(after := await asyncio.to_thread(routers, cluster.urls[0])):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    for load in (first, second):
        tally.add(load.take())
    assert sorted(after.values()) == sorted(before.values())
    assert tally.served and tally.is_whole and not tally.cut and not tally.refused, tally
