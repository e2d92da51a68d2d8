"""Real vLLM: whatever is killed in the middle of an answer, the answer is that of an undisturbed run."""

import subprocess
import sys

import pytest

from tests.chaos.exact_kills import KILLS
from tests.clusters.conftest import Terminal, free_port

pytest.importorskip("vllm", reason="the demo fleet runs on vLLM")

BOOT_S = 900.0
KILLS_S = 1800.0


TOOL_CALL = 2
"""The kill of an engine process in the middle of a tool call's arguments, beside answers that count and think."""


def test_answers_are_those_of_an_undisturbed_run_after_one_kill(shared_terminal: Terminal) -> None:
    check_kills(shared_terminal, TOOL_CALL)


@pytest.mark.long
def test_every_answer_is_that_of_an_undisturbed_run(shared_terminal: Terminal) -> None:
    check_kills(shared_terminal, *range(1, len(KILLS) + 1))


def check_kills(shared_terminal: Terminal, *kills: int) -> None:
    """Boots the demo fleet, and kills in it by these numbers."""
    penstock = shared_terminal.start("serve", "--port", str(free_port()))
    penstock.wait_for("Ctrl-C ends it.", BOOT_S)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.exact_kills", *map(str, kills)],
        capture_output=True,
        text=True,
        timeout=KILLS_S,
        env=shared_terminal.environment | {"RAY_AUTH_MODE": "token"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kill ") == len(kills), done.stdout
    assert penstock.interrupt() == 0, penstock.output
