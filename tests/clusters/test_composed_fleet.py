"""One fleet file: a model of its own, another Penstock's, and a fallback between them."""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clusters.conftest import BOOT_S, SIMULATED, Penstock, Terminal, free_port

ENDS = "Ctrl-C ends it."


def composed(far_port: int) -> str:
    return f"""
models:
  - {{name: near, engine: simulated, cpus: 0.1, options: {{speed: instant}}}}
  - name: far
    engine: openai
    options: {{base_url: "http://127.0.0.1:{far_port}/v1", model: sim, dialect: vllm}}
    pipeline: [{{breaker: {{failures: 2, cool_down_s: 0.5}}}}]
  - {{name: assistant, fallback: [far, near]}}
"""


@contextmanager
def serving(terminal: Terminal, text: str, port: int) -> Iterator[Penstock]:
    penstock = terminal.start("serve", terminal.fleet_file(text), "--port", str(port))
    try:
        penstock.wait_for(ENDS, BOOT_S)
        yield penstock
    finally:
        penstock.interrupt()


def who(port: int) -> tuple[str, str]:
    """The model and the instance that answer in the session."""
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", "x-session-id": "one"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.headers["x-penstock-model"], response.headers["x-penstock-instance"]


def test_a_session_moves_to_the_fallback_while_the_first_is_down_and_comes_back(tmp_path: Path) -> None:
    far_home, near_home = tmp_path / "far", tmp_path / "near"
    far_home.mkdir()
    near_home.mkdir()
    far, near = Terminal(far_home), Terminal(near_home)
    far_port, port = free_port(), free_port()
    with serving(near, composed(far_port), port):
        # The provider is not up yet: the fleet is, and answers.
        assert who(port)[0] == "near"
        with serving(far, SIMULATED, far_port):
            until = time.monotonic() + 60
            while who(port) != ("far", "far"):
                assert time.monotonic() < until, who(port)
        assert [who(port)[0] for _ in range(5)] == ["near"] * 5
        checked = near.run("check", "fleet.yaml")
        assert checked.returncode == 0 and "fallback" in checked.stdout and "far, near" in checked.stdout
