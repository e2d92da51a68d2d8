"""What a cluster's nodes have, and what that means for a fleet."""

import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from clusters.node_probe import NodeReport, Questions, probe
from clusters.preflight import Finding, Node, findings
from deployments.fleet_settings import FleetSettings

SIM: dict[str, Any] = {"name": "sim", "engine": "simulated", "replicas": 2}
FLEET: dict[str, Any] = {"models": [SIM], "http": {"open": True}}
HEAD = "node:__internal_head__"


def report(**changes: Any) -> NodeReport:
    right: NodeReport = {
        "python": "3.11.7",
        "ray": version("ray"),
        "penstock": version("penstock"),
        "asks_for_token": True,
        "keeps_state": True,
        "packages": [],
        "files": [],
        "variables": [],
        "database": "",
    }
    return NodeReport(**(right | changes))  # type: ignore[typeddict-item]


def node(number: int = 1, cpus: float = 8, gpus: float = 0, **changes: Any) -> Node:
    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **({HEAD: 1.0} if number == 1 else {})}
    return Node(f"10.0.0.{number}", resources, report(**changes))


def found(fleet: dict[str, Any], *nodes: Node) -> dict[str, Finding]:
    listed = findings(FleetSettings.model_validate(fleet), nodes)
    assert len({one.about for one in listed}) == len(listed)
    return {one.about: one for one in listed}


@pytest.fixture(autouse=True)
def python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.11.4")


def test_a_cluster_that_has_everything_is_right_in_one_line_each() -> None:
    said = found(FLEET | {"database": {"url": "postgresql://u@db/x"}}, node(1), node(2))
    assert [one.state for one in said.values()] == ["ok"] * 9, said
    assert all("\n" not in str(one) for one in said.values())
    assert str(said["resources"]) == "ok     resources: sim: room for all of 2"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"penstock": ""}, "10.0.0.2 has no Penstock, and this machine "),
        ({"penstock": "0.0.1"}, "10.0.0.2 has Penstock 0.0.1"),
        ({"ray": "2.1.0"}, "10.0.0.2 has Ray 2.1.0"),
        ({"python": "3.12.1"}, "10.0.0.2 has Python 3.12, and this machine 3.11"),
    ],
)
def test_another_version_is_wrong(changes: dict[str, Any], says: str) -> None:
    said = found(FLEET, node(1), node(2, **changes))["versions"]
    assert said.state == "wrong" and says in said.text


def test_a_node_that_runs_nothing_is_wrong() -> None:
    silent = Node("10.0.0.2", {"CPU": 8.0}, None, "it is out of memory")
    assert found(FLEET, node(1), silent)["nodes"].text == "10.0.0.2: it is out of memory"


def test_too_few_resources_are_wrong() -> None:
    said = found(FLEET, node(1, cpus=1))["resources"]
    assert said.state == "wrong" and "sim" in said.text


def test_only_nodes_that_may_hold_a_model_need_its_packages_and_files() -> None:
    large = {"name": "large", "gpus": 1, "options": {"model": "/models/large"}}
    fleet = FLEET | {"models": [SIM, large]}
    without = {"packages": ["vllm"], "files": ["/models/large"]}
    right = found(fleet, node(1, **without), node(2, gpus=1))
    assert right["packages"].state == right["files"].state == "ok"
    wrong = found(fleet, node(1), node(2, gpus=1, **without))
    assert wrong["packages"].state == wrong["files"].state == "wrong"
    assert "large needs /models/large (options.model), and 10.0.0.2 has it not" in wrong["files"].text


def test_what_a_runtime_environment_installs_need_not_be_there() -> None:
    large = {"name": "large", "gpus": 1, "runtime_env": {"pip": ["vllm"]}}
    said = found(FLEET | {"models": [large]}, node(1, gpus=1, packages=["vllm"]))
    assert said["packages"].state == "ok"


def test_routers_need_keys_and_what_providers_ask_for() -> None:
    options = {"base_url": "https://api.example.com/v1", "api_key_env": "KEY"}
    fleet = {"models": [{"name": "gpt", "engine": "openai", "options": options}], "http": {"host": "0.0.0.0"}}
    said = found(fleet, node(1, variables=["KEY", "PENSTOCK_API_KEYS"]))["environment"]
    assert said.state == "wrong" and "gpt: api_key_env" in said.text and "PENSTOCK_API_KEYS" in said.text
    # Where no router can be, nobody asks for them.
    pinned = fleet | {"router": {"resources": {"edge": 1}}}
    assert found(pinned, node(1, variables=["KEY", "PENSTOCK_API_KEYS"]))["environment"].state == "ok"


def test_a_database_that_lets_nobody_in_is_wrong() -> None:
    fleet = FLEET | {"database": {"url_env": "DATABASE"}}
    said = found(fleet, node(1), node(2, database="db:5432: timed out"))["database"]
    assert (said.state, said.text) == ("wrong", "from 10.0.0.2: db:5432: timed out")
    shared = FLEET | {"database": {"file": "/x"}, "router": {"replicas": 2}}
    assert found(shared, node(1))["database"].state == "wrong"


def test_an_open_cluster_and_a_head_that_forgets_are_to_be_known() -> None:
    said = found(FLEET, node(1, keeps_state=False), node(2, asks_for_token=False))
    assert said["token"].state == said["head"].state == "note"
    assert "10.0.0.2" in said["token"].text and "RAY_REDIS_ADDRESS" in said["head"].text


def asked(**questions: Any) -> NodeReport:
    nothing: Questions = {"packages": [], "files": [], "variables": [], "database_url": "", "database_variable": ""}
    return probe(Questions(**(nothing | questions)))  # type: ignore[typeddict-item]


def test_a_node_tells_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", "x")
    monkeypatch.setenv("EMPTY", "")
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.write_text("")
    said = asked(
        packages=["json", "no_such_package", "no_such.module"],
        files=[str(there), str(gone), str(tmp_path)],
        variables=["SET", "EMPTY", "UNSET"],
    )
    assert said["packages"] == ["no_such_package", "no_such.module"]
    assert said["files"] == [str(gone)] and said["variables"] == ["EMPTY", "UNSET"]
    assert (said["ray"], said["penstock"]) == (version("ray"), version("penstock"))


def test_a_node_tells_why_a_database_is_out_of_reach_and_never_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("DATABASE", f"postgresql://me:geheim@127.0.0.1:{port}/x")
    said = asked(database_variable="DATABASE")["database"]
    assert said == f"127.0.0.1:{port}: Connection refused"
    assert asked(database_url="postgresql://")["database"] == "its URL is none"
    assert asked(database_url=f"postgresql://me:geheim@[::1:{port}/x")["database"] == "its URL is none"
