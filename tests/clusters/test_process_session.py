import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from clusters import process_session


def until(condition: Callable[[], bool], deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "it has not come in time"
        time.sleep(0.02)


@pytest.mark.parametrize("ignores", [False, True], ids=["polite", "deaf to SIGTERM"])
def test_the_whole_session_ends_also_those_whose_parent_is_gone(ignores: bool) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" if ignores else ""
    code = (
        f"{deaf}import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{deaf}import time; time.sleep(600)'])"
    )
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    leader.wait()
    until(lambda: len(process_session.members(leader.pid)) == 1)
    time_began = time.monotonic()
    process_session.end(leader.pid, grace_s=1.0)
    assert process_session.members(leader.pid) == []
    assert time.monotonic() - time_began < 30


def test_nobody_else_is_a_member() -> None:
    leader = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        assert process_session.members(leader.pid) == [leader.pid]
        assert os.getpid() not in process_session.members(leader.pid)
        assert process_session.members(leader.pid, besides=[leader.pid]) == []
    finally:
        process_session.end(leader.pid, grace_s=5.0)
        leader.wait()
