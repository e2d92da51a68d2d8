"""A Ray cluster of two nodes that speak TLS with each other, beside the token."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from tests.certificates import Issued, issued
from tests.clusters.ray_nodes import KEY, TOKEN, RayNodes, ray_nodes
from tests.clusters.ray_ports import HTTP, KINDS, GrpcPort, HttpPort, Neighbour
from tests.metric_text import labels


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two nodes, each with a certificate of its own, and a fleet with an instance on each.

    Attributes:
        nodes: The nodes.
        certificates: Those of the nodes, by name, all from one authority.
    """

    nodes: RayNodes
    certificates: dict[str, Issued]


def environment(files: Issued) -> dict[str, str]:
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(files.certificate),
        "RAY_TLS_SERVER_KEY": str(files.key),
        "RAY_TLS_CA_CERT": str(files.authority),
    }


def credentials(authority: Path, own: Issued | None = None) -> grpc.ChannelCredentials:
    """Trusts an authority, and shows a certificate."""
    if own is None:
        return grpc.ssl_channel_credentials(authority.read_bytes())
    return grpc.ssl_channel_credentials(authority.read_bytes(), own.key.read_bytes(), own.certificate.read_bytes())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("home")
    with ray_nodes(home) as nodes:
        machines = [nodes.network.add(), nodes.network.add()]
        certificates = issued(home, {machine.name: [machine.address, "127.0.0.1"] for machine in machines})
        for machine in machines:
            nodes.add(machine, environment(certificates[machine.name]))
        nodes.serve(environment(certificates[machines[0].name]))
        yield Cluster(nodes, certificates)


def test_a_fleet_serves_from_both_nodes(cluster: Cluster) -> None:
    [router] = [listener for listener in cluster.nodes.listeners() if listener.kind == "Penstock"]
    url, headers = f"http://{router.address}:{HTTP}", {"authorization": f"Bearer {KEY}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def text(request: urllib.request.Request) -> str:
        with opener.open(request, timeout=60) as answer:
            return str(answer.read().decode())

    metrics = text(urllib.request.Request(f"{url}/metrics", headers=headers))
    nodes = {one["instance"]: one["node"] for one in labels(metrics, "penstock_instance_info")}
    assert len(nodes) == len(set(nodes.values())) == 2, metrics
    body = json.dumps({"model": "sim", "prompt": "count from 1 to 3", "max_tokens": 8}).encode()
    for instance in nodes:
        named = headers | {"content-type": "application/json", "x-penstock-instance": instance}
        answer = json.loads(text(urllib.request.Request(f"{url}/v1/completions", data=body, headers=named)))
        assert answer["choices"][0]["text"], answer


def test_no_grpc_port_talks_to_who_has_no_certificate_of_the_authority(cluster: Cluster, tmp_path: Path) -> None:
    own, *_ = cluster.certificates.values()
    stranger = issued(tmp_path, {"stranger": ["127.0.0.1"]})["stranger"]
    for listener in cluster.nodes.listeners():
        port = KINDS[str(listener.kind)]
        if isinstance(port, GrpcPort):
            for shown in (None, credentials(own.authority), credentials(own.authority, stranger)):
                statuses = Neighbour(listener.address, shown).call(listener.port, [port.method], TOKEN)
                assert statuses == {port.method: "UNAVAILABLE"}, listener
            member = Neighbour(listener.address, credentials(own.authority, own))
            assert member.call(listener.port, [port.method]) == {port.method: "UNAUTHENTICATED"}, listener
            assert member.call(listener.port, [port.method], TOKEN) == {port.method: port.reply}, listener


def test_http_ports_ask_for_no_certificate_and_answer_in_plain_text(cluster: Cluster) -> None:
    listeners = cluster.nodes.listeners()
    assert {listener.kind for listener in listeners} == set(KINDS), listeners
    for listener in listeners:
        neighbour, port = Neighbour(listener.address), KINDS[str(listener.kind)]
        if isinstance(port, HttpPort):
            right = KEY if listener.port == HTTP else TOKEN
            assert {neighbour.get(listener.port, path) for path in port.guarded} <= {401}, listener
            assert {neighbour.get(listener.port, path, right) for path in port.guarded} <= {200, 405}, listener
            assert {neighbour.get(listener.port, path) for path in port.open} <= {200}, listener
