"""One vLLM instance over two nodes: it answers, ends as a whole with a rank of either node, and boots again."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from clusters.api_client import PLAIN_HOSTS_ENV, ApiClient
from deployments.fleet_settings import KEYS_ENV
from tests.clusters.conftest import BOOT_S
from tests.clusters.ray_nodes import KEY, RayNodes, ray_nodes
from tests.clusters.ray_ports import HTTP
from tests.lazily import needs
from tests.metric_text import samples
from tests.network_namespaces import Namespace

needs("vllm", "needs vLLM")

logger = logging.getLogger(__name__)

# Five processes that import vLLM, twice: it takes minutes.
pytestmark = pytest.mark.long

FLEET = f"""
name: guest
router: {{cpus: 0.1}}
http: {{host: 0.0.0.0, port: {HTTP}}}
models:
  - name: demo
    pipeline_parallel_size: 2
    nnodes: 2
    options: {{model: demo, kv_cache_bytes: 67108864, max_num_seqs: 8, enforce_eager: true, cpu_threads: 1}}
"""
NUMBERS = 200
LOST_S = 10.0
"""From the end of a rank to that of the instance, as the routers see it, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two nodes with the fleet; the addresses where it answers."""

    nodes: RayNodes
    url: str

    def counts(self, to: int, on_text: Callable[[], None] = lambda: None) -> str:
        """What the model says where it is asked to count; the callback hears of each piece."""
        said = ""
        asked = [{"role": "user", "content": f"count from 1 to {to}"}]
        for chunk in ApiClient(self.url).stream_chat("demo", asked):
            if chunk["choices"] and (text := chunk["choices"][0]["delta"].get("content")):
                said += text
                on_text()
        return said.strip()

    def ready(self) -> int:
        """Instances that are ready, as the router sees them."""
        text = ApiClient(self.url).get_text("/metrics")
        return int(sum(one.value for one in samples(text, "penstock_instances", model="demo", state="ready")))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with (
        ray_nodes(tmp_path_factory.mktemp("home"), "pst4", "10.81.0") as nodes,
        pytest.MonkeyPatch.context() as environment,
    ):
        for machine in [nodes.network.add(), nodes.network.add()]:
            nodes.add(machine, {})
        environment.setenv(KEYS_ENV, KEY)
        environment.setenv(PLAIN_HOSTS_ENV, ",".join(node.address for node in nodes.nodes))
        assert "demo: room for all of 1" in nodes.check(FLEET)
        ready = re.search(r"Ready: (http://\S+)/v1", nodes.serve({}, FLEET))
        assert ready is not None
        yield Cluster(nodes, ready[1])


def until(condition: Callable[[], object], timeout_s: float) -> float:
    """Waits for a condition, or fails; how long that took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < timeout_s, "the condition did not come true"
        time.sleep(0.05)
    return time.monotonic() - began_s


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; one that waits to be reaped does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def rank_of(node: Namespace) -> psutil.Process:
    """The one rank of a node."""
    processes = {process: process.name() for process in node.processes()}
    ranks = [process for process, name in processes.items() if name.startswith("VLLM::Worker")]
    assert len(ranks) == 1, list(processes.values())
    return ranks[0]


def test_it_has_a_rank_on_each_node_and_answers(cluster: Cluster) -> None:
    assert cluster.counts(5) == "1 2 3 4 5"
    assert len({rank_of(node).pid for node in cluster.nodes.nodes}) == 2


@pytest.mark.parametrize("node", [0, 1])
def test_a_rank_that_dies_takes_the_instance_along_and_its_stream_goes_on_after_the_next_boot(
    cluster: Cluster, node: int
) -> None:
    said: list[str] = []
    speaks = threading.Event()
    reader = threading.Thread(target=lambda: said.append(cluster.counts(NUMBERS, speaks.set)))
    reader.start()
    assert speaks.wait(BOOT_S)
    ranks = [rank_of(each) for each in cluster.nodes.nodes]
    ranks[node].kill()
    took_s = until(lambda: cluster.ready() == 0, LOST_S)
    logger.info("the instance was lost %.2f s after its rank on node %d", took_s, node)
    took_s = until(lambda: not any(map(lives, ranks)), 2 * LOST_S)
    logger.info("the other rank was gone %.2f s later", took_s)
    reader.join(2 * BOOT_S)
    assert said == [" ".join(map(str, range(1, NUMBERS + 1)))]


def test_nothing_of_an_instance_that_is_killed_is_left_on_either_node(cluster: Cluster) -> None:
    ranks = [rank_of(node) for node in cluster.nodes.nodes]
    hosts: list[Any] = [parent for rank in ranks for parent in rank.parents() if "Actor" in parent.name()]
    (engine,) = (host for host in hosts if "EngineActor" in host.name())
    engine.kill()
    took_s = until(lambda: not any(map(lives, [*ranks, *hosts])), LOST_S)
    logger.info("all %d processes were gone %.2f s after the engine's actor", len(ranks) + len(hosts), took_s)
