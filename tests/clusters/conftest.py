"""The command line as a person runs it: a process of its own, in a state directory of its own."""

import contextlib
import ipaddress
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
BOOT_S = 300.0
"""Ray and Serve take about 15 s to start on two free cores; a shared machine may take many times that."""
END_S = 120.0

SIMULATED = (
    "models:\n  - {name: sim, aliases: [other], engine: simulated, replicas: 2, cpus: 0.1, options: {speed: 0}}\n"
)


class Terminal:
    """Runs `penstock` in one directory with one user's state."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.started: list[Penstock] = []
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(home / "state"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }
        # Other tests may be run with Ray's token turned off, which `penstock serve` refuses.
        self.environment.pop("RAY_AUTH_MODE", None)

    def start(self, *arguments: str) -> "Penstock":
        """Starts it and returns at once."""
        process = Penstock(self, arguments)
        self.started.append(process)
        return process

    def run(self, *arguments: str, text: str = "", timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Runs it to its end."""
        command = [sys.executable, "-m", "clusters", *arguments]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=timeout_s, env=self.environment, cwd=self.home
        )

    def processes(self) -> list[psutil.Process]:
        """Everything that runs for this terminal, whoever its parent and session are: the environment tells."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("XDG_STATE_HOME") == self.environment["XDG_STATE_HOME"]
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def fleet_file(self, text: str = SIMULATED) -> str:
        """Writes a fleet file and returns its name."""
        (self.home / "fleet.yaml").write_text(text)
        return "fleet.yaml"


class Penstock:
    """One running `penstock`."""

    def __init__(self, terminal: Terminal, arguments: tuple[str, ...]) -> None:
        self._output = terminal.home / f"output-{len(terminal.started)}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clusters", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=terminal.environment,
                cwd=terminal.home,
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def wait_for(self, text: str, deadline_s: float = BOOT_S) -> None:
        """Returns once it has printed that."""
        end = time.monotonic() + deadline_s
        while text not in self.output:
            assert self.process.poll() is None, f"it ended instead of printing {text!r}:\n{self.output}"
            assert time.monotonic() < end, f"it has not printed {text!r}:\n{self.output}"
            time.sleep(0.05)

    def interrupt(self, number: signal.Signals = signal.SIGINT, deadline_s: float = END_S) -> int:
        """Asks it to end, and returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(deadline_s)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    clean(terminal)


@pytest.fixture(scope="module")
def shared_terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path_factory.mktemp("terminal"))
    yield terminal
    clean(terminal)


def clean(terminal: Terminal) -> None:
    """Kills everything that runs for this terminal, also where its test has failed."""
    for process in terminal.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for started in terminal.started:
        started.process.wait()


@pytest.fixture
def port() -> int:
    return free_port()


def free_port() -> int:
    """A port that nobody has, and no connection gets by itself: the system takes those from 32768 on."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Status and JSON of one HTTP request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def until(condition: Callable[[], bool], deadline_s: float = END_S) -> None:
    """Returns once the condition holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "it has not come in time"
        time.sleep(0.1)
