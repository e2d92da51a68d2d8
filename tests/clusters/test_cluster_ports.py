"""What a Ray cluster that asks for a token answers to others on its network, port by port."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.clusters.conftest import ROOT
from tests.clusters.ray_nodes import KEY, TOKEN, Listener, ray_nodes
from tests.clusters.ray_ports import HTTP, KINDS, OPEN_SERVICES, GrpcPort, HttpPort, Neighbour, all_methods

WRONG = "0" * 64


@dataclass(frozen=True, slots=True)
class Cluster:
    """A fleet on a cluster of one node, and somebody on its network, who is elsewhere.

    Attributes:
        listeners: What listens on the network.
        neighbour: Who asks.
    """

    listeners: list[Listener]
    neighbour: Neighbour

    def ports(self, kind: str) -> list[int]:
        return [listener.port for listener in self.listeners if listener.kind == kind]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ray_nodes(tmp_path_factory.mktemp("home")) as nodes:
        head = nodes.network.add()
        nodes.add(head, {})
        nodes.serve({})
        yield Cluster(nodes.listeners(), Neighbour(head.address))


def test_every_port_is_of_a_kind_that_the_documentation_lists(cluster: Cluster) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    table = page[page.index("\n| port | setting |") :].partition("\n\n")[0]
    assert re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[1:] == list(KINDS)
    assert {listener.kind for listener in cluster.listeners} == set(KINDS), cluster.listeners


@pytest.mark.parametrize("kind", [kind for kind, port in KINDS.items() if isinstance(port, GrpcPort)])
def test_no_method_answers_without_the_token(cluster: Cluster, kind: str) -> None:
    asked = KINDS[kind]
    assert isinstance(asked, GrpcPort)
    for port in cluster.ports(kind):
        statuses = cluster.neighbour.call(port, all_methods())
        there = {method: status for method, status in statuses.items() if status != "UNIMPLEMENTED"}
        assert asked.method in there
        guarded = {method: status for method, status in there.items() if method.split("/")[1] not in OPEN_SERVICES}
        assert set(guarded.values()) == {"UNAUTHENTICATED"}, guarded
        assert cluster.neighbour.call(port, [asked.method], WRONG) == {asked.method: "UNAUTHENTICATED"}
        assert cluster.neighbour.call(port, [asked.method], TOKEN) == {asked.method: asked.reply}


@pytest.mark.parametrize("kind", [kind for kind, port in KINDS.items() if isinstance(port, HttpPort)])
def test_http_answers_without_the_token_only_what_is_listed(cluster: Cluster, kind: str) -> None:
    asked = KINDS[kind]
    assert isinstance(asked, HttpPort)
    [port] = cluster.ports(kind)
    # Penstock says 401 of wrong keys, too.
    right, wrong = (KEY, 401) if port == HTTP else (TOKEN, 403)
    for path in asked.guarded:
        assert cluster.neighbour.get(port, path) == 401, path
        assert cluster.neighbour.get(port, path, WRONG) == wrong, path
        # The agent of runtime environments takes POST only, and says so to who has the token.
        assert cluster.neighbour.get(port, path, right) in {200, 405}, path
    for path in asked.open:
        assert cluster.neighbour.get(port, path) == 200, path
