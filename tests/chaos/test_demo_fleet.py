"""Real vLLM: whatever is killed in the middle of an answer, the answer is that of an undisturbed run."""

import subprocess
import sys

import pytest

from tests.clusters.conftest import Terminal, free_port

pytest.importorskip("vllm", reason="the demo fleet runs on vLLM")

BOOT_S = 900.0
KILLS_S = 1800.0


def test_every_answer_is_that_of_an_undisturbed_run(shared_terminal: Terminal) -> None:
    penstock = shared_terminal.start("serve", "--port", str(free_port()))
    penstock.wait_for("Ctrl-C ends it.", BOOT_S)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.exact_kills"],
        capture_output=True,
        text=True,
        timeout=KILLS_S,
        env=shared_terminal.environment | {"RAY_AUTH_MODE": "token"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kill ") == 5, done.stdout
    assert penstock.interrupt() == 0, penstock.output
