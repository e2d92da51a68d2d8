"""What of an engine can be killed."""

import subprocess
import sys
from typing import Any

import psutil
import pytest

from clusters.chaos.targets import engine_pids

PARENT = """
import os, subprocess, sys
def start(code):
    child = subprocess.Popen([sys.executable, "-c", code, *sys.argv[1:]], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    child.stdout.readline()
    return child
runs = "print(flush=True); input()"
core, helper, tracker, ended = start(runs), start(runs), start("'resource_tracker'; " + runs), start("print()")
os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # It stays a zombie.
print(core.pid, helper.pid, flush=True)
input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_core_is_the_eldest_whatever_its_number_is(monkeypatch: pytest.MonkeyPatch) -> None:
    children = psutil.Process.children

    def youngest_first(process: psutil.Process, recursive: bool = False) -> Any:
        return children(process, recursive)[::-1]

    monkeypatch.setattr(psutil.Process, "children", youngest_first)
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        core, helper = (int(pid) for pid in parent.stdout.readline().split())
        assert engine_pids(parent.pid) == [core, helper]
        assert parent.stdin is not None
        parent.stdin.close()
