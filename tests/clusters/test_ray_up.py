"""Files for Ray's cluster launcher: held against Ray's own schema, and one of them really launched."""

import json
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from clusters.cli import app
from clusters.errors import ClusterError
from clusters.ray_up import MachineType, RayUpOptions, launcher_file
from deployments.fleet_settings import FleetSettings
from tests.clusters.conftest import BOOT_S, END_S, ROOT, until
from tests.clusters.machines import Machine, machines

HTTP: dict[str, Any] = {"host": "0.0.0.0", "open": True}
SIMULATED: dict[str, Any] = {"models": [{"name": "sim", "engine": "simulated", "replicas": 2}], "http": HTTP}
GPUS: dict[str, Any] = {
    "name": "Our Fleet".replace(" ", "-"),
    "models": [
        {"name": "org/large", "replicas": {"min": 0, "max": 3}, "tensor_parallel_size": 4, "surge_percent": 50},
        {"name": "small", "replicas": 3, "gpus": 0.5},
        {"name": "sim", "engine": "simulated", "replicas": 10, "cpus": 2},
    ],
    "router": {"replicas": 2},
    "http": HTTP,
}
FLEET = """
models:
  - {name: sim, engine: simulated, replicas: 2, resources: {seat: 1}, cpus: 0.1, options: {speed: 0}}
router: {cpus: 0.1}
http: {host: 0.0.0.0, port: 8000}
"""
PAIR: dict[str, Any] = {"pipeline_parallel_size": 2}
FILE = Path("/home/me/fleet.yaml")
LOCAL: dict[str, Any] = {"provider": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"], "ssh_user": "me"}
AWS: dict[str, Any] = {"provider": "aws", "image": "penstock:gpu"}
GCP: dict[str, Any] = AWS | {"provider": "gcp", "project": "ours", "machine_image": "projects/x/global/images/y"}

SMALL = MachineType("x", 8, 1)


def launched(fleet: dict[str, Any], options: dict[str, Any], file: Path = FILE) -> dict[str, Any]:
    written: dict[str, Any] = yaml.safe_load(
        launcher_file(FleetSettings.model_validate(fleet), file, RayUpOptions(**options))
    )
    return written


@pytest.mark.parametrize("options", [LOCAL, LOCAL | {"image": "penstock:cpu"}, AWS, GCP])
@pytest.mark.parametrize("fleet", [SIMULATED, GPUS])
def test_rays_schema_takes_it_with_rays_own_defaults(fleet: dict[str, Any], options: dict[str, Any]) -> None:
    validate_config(prepare_config(launched(fleet, options)))


def test_a_cloud_has_machines_for_the_least_and_for_the_most() -> None:
    types = launched(GPUS, AWS)["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    large, small, cpu = types["org-large"], types["small"], types["cpu"]
    assert large["node_config"]["InstanceType"] == "g6.12xlarge" and large["resources"]["GPU"] == 4
    # Three and a half more for an upgrade, and one for the successors of a machine that goes.
    assert (large["min_workers"], large["max_workers"]) == (0, 6)
    assert (small["min_workers"], small["max_workers"]) == (2, 3)
    assert (cpu["min_workers"], cpu["max_workers"]) == (3, 4)
    assert launched(GPUS, AWS)["max_workers"] == 13


def test_machines_of_a_type_that_is_named_hold_as_many_instances_as_fit() -> None:
    types = launched(GPUS, AWS | {"gpu_node": MachineType("p5.48xlarge", 192, 8)})["available_node_types"]
    assert types["org-large"]["max_workers"] == 4 and types["small"]["min_workers"] == 1


def test_an_instance_over_several_machines_has_as_many_at_least() -> None:
    wide = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "nnodes": 2, "surge_percent": 100}
    models = [{"name": "wide", "replicas": 1, **wide}, {"name": "thin", "replicas": 3, "nnodes": 2, "gpus": 0, **PAIR}]
    types = launched(SIMULATED | {"models": models}, AWS)["available_node_types"]
    one = types["wide"]
    assert one["resources"]["GPU"] == 4
    # Two for the instance, two for its successor in an upgrade, and two for that of a machine that goes.
    assert (one["min_workers"], one["max_workers"]) == (2, 6)
    assert (types["cpu"]["min_workers"], types["cpu"]["max_workers"]) == (2, 4)
    large = launched(SIMULATED | {"models": models}, AWS | {"gpu_node": MachineType("p5.48xlarge", 192, 8)})
    # A machine has places of two instances, but none of both parts of one.
    assert large["available_node_types"]["wide"]["min_workers"] == 2


def test_files_that_the_fleet_names_come_along_at_the_same_places_beside_it() -> None:
    fleet = SIMULATED | {"http": HTTP | {"keys": {"file": "/home/me/keys/keys.yaml"}}}
    mounts = launched(fleet, LOCAL)["file_mounts"]
    assert mounts["~/penstock/keys/keys.yaml"] == "/home/me/keys/keys.yaml"
    assert mounts["~/penstock/fleet.yaml"] == "/home/me/fleet.yaml"
    assert mounts["~/.ray/auth_token"].endswith("/.ray/auth_token")


def test_ray_asks_for_the_token_on_every_machine() -> None:
    for options in (LOCAL, AWS, GCP):
        config = launched(SIMULATED, options)
        for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
            assert "export RAY_AUTH_MODE=token" in command


@pytest.mark.parametrize(
    ("fleet", "options", "says"),
    [
        (SIMULATED, {"provider": "local", "ssh_user": "me"}, "--head-ip is missing"),
        (SIMULATED, {"provider": "local", "head_ip": "10.0.0.1"}, "--ssh-user is missing"),
        (SIMULATED, {"provider": "aws"}, "--image is missing"),
        (SIMULATED, AWS | {"provider": "gcp", "project": "x"}, "--machine-image is missing"),
        (SIMULATED, AWS | {"project": "x"}, "--project is not for --ray-up aws"),
        (SIMULATED, AWS | {"worker_ips": ["10.0.0.2"]}, "--worker-ip is not for"),
        (SIMULATED, LOCAL | {"region": "x"}, "--region is not for --ray-up local"),
        (SIMULATED, LOCAL | {"programs": "bin"}, "--bin bin: it must be an absolute path"),
        (SIMULATED, LOCAL | {"ssh_key": Path("/none")}, "--ssh-key /none: there is no such file"),
        (SIMULATED | {"http": {}}, LOCAL, "http.host is 127.0.0.1"),
        (SIMULATED | {"http": {"host": "0.0.0.0"}}, LOCAL, "--env-file"),
        (SIMULATED | {"database": {"file": "/x"}}, LOCAL, "database.file"),
        (
            SIMULATED | {"http": HTTP | {"secret": {"file": "/etc/secret"}}},
            LOCAL,
            "http.secret.file: /etc/secret is not",
        ),
        (SIMULATED | {"models": [{"name": "a", "gpus": 16}]}, AWS, "--gpu-node TYPE:CPUS:GPUS"),
        (
            SIMULATED | {"models": [{"name": "a", "gpus": 2}]},
            AWS | {"gpu_node": MachineType("x", 8, 1)},
            "No instance of a",
        ),
        (SIMULATED | {"models": [{"name": "a", "engine": "simulated", "cpus": 99}]}, AWS, "--cpu-node TYPE:CPUS"),
    ],
)
def test_what_cannot_be_launched_is_refused_with_the_option_or_key(
    fleet: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ClusterError) as raised:
        launched(fleet, options)
    assert says in raised.value.message


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ray-up", "local", "--kuberay"], "either --kuberay or --ray-up"),
        (["--ray-up", "local", "--redis", "a:1"], "--redis goes with --kuberay only"),
        (["--kuberay", "--image", "x", "--head-ip", "1.2.3.4"], "--head-ip goes with --ray-up only"),
        (["--ray-up", "aws", "--image", "x", "--gpu-node", "g6"], "--gpu-node g6:"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["build", *arguments])
    assert isinstance(done.exception, ClusterError) and says in done.exception.message


@pytest.mark.long
def test_ray_up_deploy_ask_ray_down(tmp_path: Path) -> None:
    with machines(tmp_path) as made:
        head, worker, desk = made.with_sshd(), made.with_sshd(), made.add()
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, module in (("ray", "ray.scripts.scripts"), ("penstock", "clusters")):
            # As installed, but of this checkout.
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            (programs / name).chmod(0o755)
        fleet = tmp_path / "fleet.yaml"
        fleet.write_text(FLEET)
        (tmp_path / "env").write_text(f"PENSTOCK_API_KEYS=secret\nPYTHONPATH={ROOT}\n")

        def run(*command: str, timeout_s: float = 2 * BOOT_S) -> str:
            environment = {"HOME": str(desk.home), "PATH": f"{programs}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
            environment |= {"LC_ALL": "C.UTF-8", "COLUMNS": "200", "TERM": "dumb", "RAY_AUTH_MODE": "token"}
            done = subprocess.run(
                desk.command(*command), capture_output=True, text=True, timeout=timeout_s, env=environment, cwd=tmp_path
            )
            assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
            return done.stdout

        run("ray", "get-auth-token", "--generate")
        where = ["--head-ip", head.address, "--worker-ip", worker.address, "--ssh-user", "root"]
        mine = ["--ssh-key", str(made.key), "--env-file", "env", "--bin", str(programs)]
        text = run("penstock", "build", "fleet.yaml", "--ray-up", "local", *where, *mine)
        cluster = tmp_path / "cluster.yaml"
        # What machines of their own have by themselves: memory, and a seat for one instance each.
        seat = shlex.quote(json.dumps({"seat": 1}))
        more = f"--disable-usage-stats --object-store-memory={80 * 2**20} --resources={seat}"
        document = yaml.safe_load(text)
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            document[key] = [command.replace("--disable-usage-stats", more) for command in document[key]]
        cluster.write_text(yaml.safe_dump(document))
        run("ray", "up", "cluster.yaml", "--yes", "--no-config-cache")
        deploy = next(line for line in text.splitlines() if "ray exec" in line).partition("'")[2].rstrip("'")
        said = run("ray", "exec", "cluster.yaml", f". ~/penstock/env; export PYTHONPATH; {deploy} --wait")
        assert "Ready" in said
        assert "1 2 3 4 5" in {answer(machine) for machine in (head, worker)}
        run("ray", "down", "cluster.yaml", "--yes")
        for machine in (head, worker):
            until(lambda one=machine: "raylet" not in {process.name() for process in one.inside.processes()}, END_S)


def answer(machine: Machine) -> str | None:
    """What a fleet answers, asked over the network; None: nobody listens there."""
    question = {"role": "user", "content": "count from 1 to 5"}
    request = urllib.request.Request(
        f"http://{machine.address}:8000/v1/chat/completions",
        json.dumps({"model": "sim", "messages": [question]}).encode(),
        {"content-type": "application/json", "authorization": "Bearer secret"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answered:
            return str(json.load(answered)["choices"][0]["message"]["content"])
    except urllib.error.URLError as error:
        assert isinstance(error.reason, ConnectionRefusedError), error
        return None
