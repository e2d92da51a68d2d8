"""What the command line says without starting anything."""

import socket
from importlib.metadata import version

import pytest
import yaml
from typer.testing import CliRunner

from clusters.cli import app
from deployments.fleet_settings import FleetSettings
from tests.clusters.conftest import Terminal


def test_the_version_is_shown(terminal: Terminal) -> None:
    assert terminal.run("--version").stdout.strip() == version("penstock")


def test_check_prints_what_a_right_file_would_start(terminal: Terminal) -> None:
    done = terminal.run("check", terminal.fleet_file())
    assert done.returncode == 0
    assert "fleet.yaml is right." in done.stdout
    assert "sim, other  simulated" in done.stdout


def test_check_puts_every_error_on_its_own_line(terminal: Terminal) -> None:
    done = terminal.run("check", terminal.fleet_file("models:\n  - name: a\n    replcas: 2\n    engine: vlm\n"))
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["fleet.yaml:3:", "fleet.yaml:4:"]


def test_check_without_a_file_checks_the_demo(terminal: Terminal) -> None:
    assert "demo" in terminal.run("check").stdout


def test_build_prints_a_serve_config_that_gives_the_same_fleet(terminal: Terminal) -> None:
    config = yaml.safe_load(terminal.run("build", terminal.fleet_file()).stdout)
    assert config["proxy_location"] == "Disabled"
    [application] = config["applications"]
    assert application["import_path"] == "deployments.app:build"
    fleet = FleetSettings.model_validate(application["args"])
    assert (fleet.models[0].name, fleet.models[0].replicas) == ("sim", 2)


def test_serves_config_schema_takes_what_build_prints(terminal: Terminal) -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(yaml.safe_load(terminal.run("build", terminal.fleet_file()).stdout))


def test_serve_of_a_wrong_file_starts_nothing(terminal: Terminal) -> None:
    done = terminal.run("serve", terminal.fleet_file("models: []\n"))
    assert done.returncode == 1
    assert done.stderr.startswith("fleet.yaml:1: models:")


def test_serve_of_no_file_is_one_line(terminal: Terminal) -> None:
    done = terminal.run("serve", "none.yaml")
    assert (done.returncode, done.stderr) == (1, "none.yaml: there is no such file\n")


def test_a_taken_port_is_one_line_and_starts_nothing(terminal: Terminal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = terminal.run("serve", terminal.fleet_file(), "--port", str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"Port {port} on 127.0.0.1 is taken by another program. Choose another one: --port {port + 1}\n"
    )


def test_other_machines_are_not_let_in_without_keys_by_accident(terminal: Terminal) -> None:
    done = terminal.run("serve", terminal.fleet_file(), "--host", "0.0.0.0")
    assert done.returncode == 1
    assert done.stderr.startswith("Whoever reaches 0.0.0.0 could use the models. Set http.keys.file, or ")
    assert len(done.stderr.splitlines()) == 1


def test_a_host_that_is_not_this_machine_is_one_line(terminal: Terminal) -> None:
    terminal.environment["PENSTOCK_API_KEYS"] = "secret"
    done = terminal.run("serve", terminal.fleet_file(), "--host", "192.0.2.1")
    assert done.returncode == 1
    assert done.stderr.startswith("Cannot listen on 192.0.2.1:8000: ")
    assert len(done.stderr.splitlines()) == 1


def test_too_little_memory_is_one_line_and_starts_nothing(terminal: Terminal, port: int) -> None:
    file = terminal.fleet_file("models: [{name: big, engine: simulated, replicas: 1000}]")
    done = terminal.run("serve", file, "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith("Too little memory: the fleet needs about ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "chat", "down"])
def test_without_a_fleet_it_says_how_to_start_one(terminal: Terminal, command: str) -> None:
    done = terminal.run(command)
    assert (done.returncode, done.stderr) == (1, "No local fleet runs. `penstock serve` starts one.\n")


@pytest.mark.parametrize("command", ["status", "chat"])
def test_an_address_where_nothing_answers_is_one_line(terminal: Terminal, port: int, command: str) -> None:
    done = terminal.run(command, "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Nothing answers at http://127.0.0.1:{port} (")


def test_an_address_that_is_none_is_one_line(terminal: Terminal) -> None:
    assert terminal.run("status", "--url", "localhost").stderr.startswith("'localhost' is no address of a fleet")


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("serve", "status", "chat", "check", "build", "down"):
        assert command in result.output
