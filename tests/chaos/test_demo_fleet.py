"""Real vLLM: whatever is killed in the middle of an answer, the answer is that of an undisturbed run."""

import pytest

from tests.chaos.exact_kills import KILLS, check_kills
from tests.clusters.conftest import Terminal, free_port
from tests.lazily import needs

needs("vllm", "the demo fleet runs on vLLM")

BOOT_S = 900.0


@pytest.mark.long
def test_every_answer_is_that_of_an_undisturbed_run(shared_terminal: Terminal) -> None:
    penstock = shared_terminal.start("serve", "--port", str(free_port()))
    penstock.wait_for("Ctrl-C ends it.", BOOT_S)
    check_kills(shared_terminal.environment, *range(1, len(KILLS) + 1))
    assert penstock.interrupt() == 0, penstock.output
