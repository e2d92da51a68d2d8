"""What a pod does before it goes, on nodes of a real cluster, each with a network of its own."""

import subprocess
import sys
import threading

import pytest

from tests.clusters.conftest import BOOT_S
from tests.clusters.ray_nodes import FLEET, KEY, ON_HEAD, TOKEN, RayNodes, ray_nodes
from tests.clusters.ray_ports import GCS, HTTP
from tests.network_namespaces import Namespace

WITHIN_S = 120
_COUNT = f"""
import json, sys, urllib.request
question = {{"role": "user", "content": "count from 1 to 999"}}
body = json.dumps({{"model": "sim", "stream": True, "max_tokens": 4000, "messages": [question]}}).encode()
headers = {{"content-type": "application/json", "authorization": "Bearer {KEY}"}}
numbers = [str(number) for number in range(1, 1000)]
while True:
    request = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
    said = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {{")]
    words = "".join(one["choices"][0]["delta"].get("content") or "" for one in said if one.get("choices"))
    print("whole" if words.split() == numbers else "broken " + text[-300:], flush=True)
"""


def leave(nodes: RayNodes, node: Namespace, address: str, within_s: int) -> subprocess.CompletedProcess[str]:
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_ADDRESS": f"{nodes.nodes[0].address}:{GCS}"}
    return subprocess.run(
        node.command(sys.executable, "-m", "clusters.kuberay.leave", str(within_s)),
        capture_output=True,
        text=True,
        timeout=within_s + 60,
        env=nodes.environment | environment | {"POD_IP": address},
    )


@pytest.mark.long
def test_a_pod_that_goes_hands_over_its_streams_and_is_gone_before_its_time_is_up(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with ray_nodes(tmp_path_factory.mktemp("home")) as nodes:
        for _ in range(2):
            nodes.add(nodes.network.add(), {})
        # Who asks keeps its connection: the router stays.
        pinned = f"router: {{cpus: 0.1, resources: {{{ON_HEAD}: 1}}}}"
        nodes.serve({}, FLEET.replace("router: {cpus: 0.1}", pinned))
        nodes.add(nodes.network.add(), {})
        unknown = leave(nodes, nodes.nodes[1], "10.78.0.99", WITHIN_S)
        assert unknown.returncode == 1 and "no node with the address 10.78.0.99" in unknown.stderr

        head, going = nodes.nodes[0], nodes.nodes[1]
        clients = [
            subprocess.Popen(
                head.command(sys.executable, "-c", _COUNT, f"http://{head.address}:{HTTP}"),
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        said: list[str] = []
        readers = [threading.Thread(target=lambda c=client: said.extend(c.stdout or ())) for client in clients]
        for reader in readers:
            reader.start()
        done = leave(nodes, going, going.address, WITHIN_S)
        assert done.returncode == 0, done.stderr
        raylets = [process for process in going.processes() if process.name() == "raylet"]
        for client in clients:
            client.kill()
            client.wait(BOOT_S)
        for reader in readers:
            reader.join()
        assert raylets == []
        assert said and {line.strip() for line in said} == {"whole"}, said
