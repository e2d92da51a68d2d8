"""Nodes that go away, announced or not."""

import os
import subprocess
import sys

import pytest


@pytest.mark.long
def test_a_node_that_is_announced_to_go_away_takes_no_stream_along() -> None:
    assert "successor elsewhere" in run("node_drain")


def test_a_node_that_dies_with_all_its_processes_takes_no_stream_along() -> None:
    # How long a pause is says how busy the machine is; the program by itself is strict.
    assert run("node_kill", "--times", "1", "--pause", "60").count("broken 0, cut 0, lost 0, repeated 0") == 1


def run(program: str, *arguments: str) -> str:
    """What a program of this folder said, once it has ended well."""
    command = [sys.executable, "-m", f"tests.chaos.{program}", *arguments]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
