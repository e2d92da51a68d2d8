import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.processes import CpuMeter, Process, Role, descendants, frozen, memory_of

_BURN = """
import time
while time.process_time() < 0.3:
    pass
print("burnt", flush=True)
input()
"""


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("VLLM::EngineCore", Role.ENGINE_CORE),
        ("VLLM::Worker", Role.ENGINE_WORKER),
        ("python -m vllm.entrypoints.openai.api_server --port 1", Role.API_SERVER),
        ("ray::ServeReplica:penstock:Router", Role.ROUTER),
        ("ray::EngineActor.submit", Role.ENGINE_ACTOR),
        ("/opt/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", Role.RAYLET),
        ("/opt/ray/core/src/ray/gcs/gcs_server --log_dir=x", Role.RAYLET),
        ("ray::ServeController", Role.REST),
        ("python -u dashboard/agent.py --raylet-name=/tmp/sockets/raylet", Role.REST),
    ],
)
def test_a_process_is_known_by_its_title(title: str, role: Role) -> None:
    assert Process(1, 0, title, 0, 0.0).role is role


def test_the_meter_counts_the_cpu_time_of_a_whole_tree() -> None:
    meter = CpuMeter(os.getpid())
    command = [sys.executable, "-c", _BURN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in {process.pid for process in descendants(os.getpid())}
        used_s = sum(meter.read_s().values())
        memory = memory_of(child.pid)
        child.communicate("\n")
    assert used_s >= 0.28  # ticks are 10 ms
    assert memory.rss_bytes >= memory.pss_bytes >= memory.own_bytes > 0


def test_a_frozen_tree_stands_still_and_goes_on_afterwards() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        with frozen([child.pid]):
            _until(lambda: _state(child.pid) == "T")
            meter = CpuMeter(child.pid)
            time.sleep(0.1)
            assert sum(meter.read_s().values()) == 0.0
        _until(lambda: sum(meter.read_s().values()) > 0.0)
        child.kill()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_ended_has_no_tree() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (process,) = descendants(child.pid)
    assert process.alive
    child.communicate(b"\n")
    _until(lambda: not process.alive)
    assert descendants(child.pid) == []
