"""One fleet file: a model of its own, another Penstock's, and a fallback between them."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.conftest import BOOT_S, ROOT, SIMULATED, Penstock, Terminal, clean, free_port

ENDS = "Ctrl-C ends it."
DEADLINE_S = 120.0


class Fleet:
    """A fleet that is started and stopped."""

    def __init__(self, home: Path, text: str) -> None:
        home.mkdir()
        self.terminal = Terminal(home)
        self.port = free_port()
        self._file = self.terminal.fleet_file(text)
        self._penstock: Penstock | None = None

    def start(self) -> None:
        if self._penstock is None:
            self._penstock = self.terminal.start("serve", self._file, "--port", str(self.port))
            self._penstock.wait_for(ENDS, BOOT_S)

    def stop(self) -> None:
        penstock, self._penstock = self._penstock, None
        if penstock is not None:
            assert penstock.interrupt() == 0, penstock.output


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Another Penstock; not started yet."""
    fleet = Fleet(tmp_path_factory.mktemp("composed") / "far", SIMULATED)
    try:
        yield fleet
        fleet.stop()
    finally:
        clean(fleet.terminal)


@pytest.fixture(scope="module")
def near(far: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that falls back from the other one to a model of its own; running."""
    text = f"""
models:
  - {{name: near, engine: simulated, replicas: 1, cpus: 0.1, options: {{speed: instant}}}}
  - name: far
    engine: openai
    options: {{base_url: "http://127.0.0.1:{far.port}/v1", model: sim, dialect: vllm}}
    pipeline: [{{breaker: {{failures: 2, cool_down_s: 0.5}}}}]
  - {{name: assistant, fallback: [far, near]}}
"""
    fleet = Fleet(tmp_path_factory.mktemp("composed") / "near", text)
    try:
        fleet.start()
        yield fleet
        fleet.stop()
    finally:
        clean(fleet.terminal)


def who(fleet: Fleet) -> str:
    """The model that answers in the session."""
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    request = urllib.request.Request(
        f"http://127.0.0.1:{fleet.port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", "x-session-id": "one"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(response.headers["x-penstock-model"])


def until_it_is(fleet: Fleet, model: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while who(fleet) != model:
        assert time.monotonic() < end, f"{model} never answered"


def test_a_provider_that_is_down_holds_nobody_up(near: Fleet) -> None:
    assert [who(near) for _ in range(5)] == ["near"] * 5
    checked = near.terminal.run("check", "fleet.yaml")
    assert checked.returncode == 0 and "fallback" in checked.stdout and "far, near" in checked.stdout


def test_a_session_moves_to_the_fallback_while_the_first_is_down_and_comes_back(far: Fleet, near: Fleet) -> None:
    far.start()
    until_it_is(near, "far")
    assert [who(near) for _ in range(5)] == ["far"] * 5
    far.stop()
    assert [who(near) for _ in range(5)] == ["near"] * 5
    far.start()
    until_it_is(near, "far")


def test_a_program_falls_back_from_its_local_fleet_to_a_remote_one(far: Fleet, near: Fleet) -> None:
    far.start()
    program = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "fallback.py", "near", f"http://127.0.0.1:{far.port}/v1", "sim"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=near.terminal.environment,
    )
    assert program.stdin is not None and program.stdout is not None

    def answered_by() -> str:
        print("hello", file=program.stdin, flush=True)
        return str(program.stdout.readline()).partition(":")[0]  # type: ignore[union-attr]

    def until_answered_by(remote: bool) -> None:
        end = time.monotonic() + DEADLINE_S
        while (answered_by() == "remote") != remote:
            assert time.monotonic() < end and program.poll() is None

    try:
        assert answered_by().startswith("near-")
        (instance,) = (process for process in near.terminal.processes() if "EngineActor" in process.name())
        instance.kill()
        until_answered_by(remote=True)
        until_answered_by(remote=False)
    finally:
        program.stdin.close()
        assert program.wait(30) == 0
