"""A Ray cluster that runs already, and asks for a token."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.ray_token import offer_token
from tests.clusters.conftest import ROOT, SIMULATED, Terminal, ask, free_port

TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which Ray's token lies."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # So that it is put back, too, where it was not set before.
        monkeypatch.delenv(name)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    return tmp_path


def test_the_token_is_shown_to_a_cluster_of_this_machine(home: Path) -> None:
    offer_token("127.0.0.1:6379")
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("address", ["203.0.113.1:6379", "ray://nowhere.invalid:10001"])
def test_and_to_no_other(home: Path, address: str) -> None:
    offer_token(address)
    assert "RAY_AUTH_MODE" not in os.environ


def test_without_a_token_none_is_promised(home: Path) -> None:
    (home / ".ray" / "auth_token").unlink()
    offer_token("127.0.0.1:6379")
    assert "RAY_AUTH_MODE" not in os.environ


def test_what_the_user_says_holds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    offer_token("127.0.0.1:6379")
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.fixture
def cluster(home: Path) -> Iterator[str]:
    """A cluster that lets in who shows the token; its address."""
    address = f"127.0.0.1:{free_port()}"
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    options = {
        "port": address.rpartition(":")[2],
        "ray-client-server-port": free_port(),
        "node-ip-address": "127.0.0.1",
        "num-cpus": 4,
        "include-dashboard": "false",
        "object-store-memory": 100 * 2**20,
        "temp-dir": folder,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    head = subprocess.Popen(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Its workers have to find Penstock, as on any node.
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert head.stdout is not None
    seen = []
    for line in head.stdout:
        seen.append(line)
        if "Ray runtime started" in line:
            break
    else:
        pytest.fail("".join(seen))
    yield address
    for process in [*psutil.Process(head.pid).children(recursive=True), head]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.communicate()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_fleet_lives_on_a_cluster_that_asks_for_a_token(cluster: str, terminal: Terminal) -> None:
    port = free_port()
    missing = "http: {host: 0.0.0.0, keys: {file: ./none.yaml}}\n"
    checked = terminal.run("check", terminal.fleet_file(missing + SIMULATED), "--address", cluster, timeout_s=300)
    assert checked.returncode == 1 and "1 of " in checked.stderr, checked.stdout + checked.stderr
    states = {about: state for state, about in re.findall(r"^  (\w+) +(\w+):", checked.stdout, re.MULTILINE)}
    assert states.pop("files") == "wrong" and "none.yaml (http.keys.file)" in checked.stdout
    assert states.pop("head") == "note"
    assert set(states) == {"nodes", "versions", "resources", "packages", "environment", "token"}
    assert set(states.values()) == {"ok"}, checked.stdout
    file = terminal.fleet_file("name: guest\nrouter: {cpus: 0.1}\n" + SIMULATED)
    served = terminal.run("serve", file, "--address", cluster, "--port", str(port), timeout_s=300)
    assert served.returncode == 0, served.stdout + served.stderr
    status, answer = ask(port, "/v1/completions", {"model": "sim", "prompt": "count from 1 to 3", "max_tokens": 8})
    assert status == 200, answer
    down = terminal.run("down", "--address", cluster, "--name", "guest", timeout_s=120)
    assert (down.returncode, down.stdout.strip()) == (0, "Ended."), down.stdout + down.stderr
    again = terminal.run("down", "--address", cluster, "--name", "guest", timeout_s=120)
    assert again.returncode == 1 and "There is no fleet 'guest'" in again.stderr
