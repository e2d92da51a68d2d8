"""One fleet file: a model of its own, another Penstock's, and a fallback between them."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.clusters.conftest import BOOT_S, ROOT, Terminal, clean, free_port
from tests.clusters.server_without_ray import ServerWithoutRay

ENDS = "Ctrl-C ends it."
DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet that runs."""

    terminal: Terminal
    port: int


@pytest.fixture(scope="module")
def far() -> Iterator[ServerWithoutRay]:
    """Another Penstock; not started yet."""
    server = ServerWithoutRay()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def near(far: ServerWithoutRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
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
    terminal = Terminal(tmp_path_factory.mktemp("composed"))
    port = free_port()
    try:
        penstock = terminal.start("serve", terminal.fleet_file(text), "--port", str(port))
        penstock.wait_for(ENDS, BOOT_S)
        yield Fleet(terminal, port)
        assert penstock.interrupt() == 0, penstock.output
    finally:
        clean(terminal)


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


def test_a_session_moves_to_the_fallback_while_the_first_is_down_and_comes_back(
    far: ServerWithoutRay, near: Fleet
) -> None:
    far.start()
    until_it_is(near, "far")
    assert [who(near) for _ in range(5)] == ["far"] * 5
    far.stop()
    assert [who(near) for _ in range(5)] == ["near"] * 5
    far.start()
    until_it_is(near, "far")


def test_a_program_falls_back_from_its_local_fleet_to_a_remote_one(far: ServerWithoutRay, near: Fleet) -> None:
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
