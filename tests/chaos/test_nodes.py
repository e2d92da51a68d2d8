"""A node that is to go away."""

import os
import subprocess
import sys


def test_a_node_that_is_announced_to_go_away_takes_no_stream_along() -> None:
    command = [sys.executable, "-m", "tests.chaos.node_drain"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "successor elsewhere" in done.stdout
