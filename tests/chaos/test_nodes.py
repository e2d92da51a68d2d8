"""Nodes that go away, announced or not, and fleets that grow and shrink: each a program with a Ray of its own."""

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.long
def test_a_node_that_is_announced_to_go_away_takes_no_stream_along() -> None:
    assert "successor elsewhere" in run("node_drain")


def test_a_node_that_dies_with_all_its_processes_takes_no_stream_along() -> None:
    # How long a pause is says how busy the machine is; the program by itself is strict.
    assert run("node_kill", "--times", "1", "--pause", "60").count("broken 0, cut 0, lost 0, repeated 0") == 1


@pytest.mark.long
@pytest.mark.parametrize("scaler", ["serve", "routers"])
def test_from_none_to_three_and_back_no_token_is_lost_though_controller_and_router_die(scaler: str) -> None:
    said = run("scaling", scaler)
    assert "failed=0" in said and "lost=0, repeated=0" in said
    ready = [int(count) for count in re.findall(r"^ *[0-9.]+ s  (\d) ready$", said, flags=re.MULTILINE)]
    assert ready[-1] == 0 and max(ready) == 3, said


def run(program: str, *arguments: str) -> str:
    """What a program of this folder said, once it has ended well."""
    command = [sys.executable, "-m", f"tests.chaos.{program}", *arguments]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
