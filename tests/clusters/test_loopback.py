"""What a served fleet listens on: the port that was asked for, and loopback."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from clusters import process_session
from deployments.private_folder import is_private_folder
from tests.clusters.conftest import Terminal, ask, clean, free_port, is_loopback


@dataclass(frozen=True, slots=True)
class Served:
    """A fleet that listens on every interface, and asks for Ray's token, whose home is its own."""

    terminal: Terminal
    port: int
    output: str

    def processes(self) -> list[psutil.Process]:
        """All of it, also what has overwritten its environment with its title."""
        found = {process.pid for process in self.terminal.processes()}
        for session in {os.getsid(pid) for pid in found}:
            if session != os.getsid(0):
                found |= set(process_session.members(session))
        return [psutil.Process(pid) for pid in found]

    def listeners(self) -> list[tuple[str, str, int]]:
        """Name of the process, address and port of each socket that takes what anybody sends."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                for connection in process.net_connections("inet"):
                    takes = connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
                    if takes and not connection.raddr:
                        found.append((process.name(), *connection.laddr))
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    terminal = Terminal(home)
    # Ray's figures are off in a local fleet, and may be turned on.
    terminal.environment |= {"HOME": str(home), "RAY_enable_metrics_collection": "1", "PENSTOCK_API_KEYS": "secret"}
    port = free_port()
    try:
        started = terminal.start("serve", terminal.fleet_file(), "--host", "0.0.0.0", "--port", str(port))
        started.wait_for("Ctrl-C ends it.")
        yield Served(terminal, port, started.output)
        assert started.interrupt() == 0, started.output
    finally:
        clean(terminal)


def test_only_the_port_that_was_asked_for_is_not_on_loopback(served: Served) -> None:
    listeners = served.listeners()
    assert {name for name, _, _ in listeners} >= {"gcs_server", "raylet", "ray::DashboardAgent"}, listeners
    assert sum(name.startswith("ray::ServeReplica") for name, _, _ in listeners) >= 6, listeners
    open_to_others = {(address, port) for _, address, port in listeners if not is_loopback(address)}
    assert open_to_others == {("0.0.0.0", served.port)}, listeners


def test_the_lines_that_it_prints_reach_it_from_another_program(served: Served) -> None:
    lines = served.output.splitlines()
    first = next(i for i, line in enumerate(lines) if "RAY_AUTH_MODE" in line)
    program = "\n".join(
        ['messages = [{"role": "user", "content": "hello"}]', *lines[first : lines.index("", first)]],
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=180,
        env=served.terminal.environment,
        cwd=served.terminal.home,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("early", ["", "import ray"])
def test_connect_reaches_it_by_the_run_file(served: Served, early: str) -> None:
    program = f"""
{early}
import deployments
from engines import CompletionClient
print(CompletionClient(deployments.connect()).model("sim").name)
import ray
print(ray.is_initialized())
"""
    mode = {"RAY_AUTH_MODE": "token"} if early else {}  # Ray reads that when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=180,
        env=served.terminal.environment | mode,
        cwd=served.terminal.home,
    )
    assert done.stdout.splitlines()[-1:] == ["True"], done.stderr


def test_ray_asks_for_its_token(served: Served) -> None:
    [address] = re.findall(r'ray.init\("([^"]+)"\)', served.output)
    environment = served.terminal.environment | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0" * 64,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    program = f"import ray; ray.init({address!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode != 0
    assert "AuthenticationError" in done.stderr, done.stderr


def test_its_token_is_its_users(served: Served) -> None:
    token = Path(served.terminal.environment["HOME"]) / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert ask(served.port, "/ready")[0] == 200


def test_its_files_are_its_users_whatever_ray_allows_in_its_own_folder(served: Served) -> None:
    [logs] = re.findall(r"Logs: (\S+)", served.output)
    assert (Path(logs) / "ray" / "session_latest").exists()
    assert is_private_folder(Path(logs)), oct(Path(logs).stat().st_mode)
