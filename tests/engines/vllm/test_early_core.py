"""The process that is started before vLLM is imported: it becomes vLLM's core, or it is gone."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from engines.vllm import early_core, environment
from engines.vllm.early_core import EarlyCore, run_when_told
from engines.vllm.options import VllmOptions

# Not by an import: the processes here import this module, and are to be quick.
pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")

DEADLINE_S = 120.0


@contextmanager
def an_early_core() -> Iterator[tuple[EarlyCore, int]]:
    """One that imports nothing (what that would set in its environment, it inherits), and the number of its process."""
    import vllm.v1.engine.utils  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early_core, "_import_and_run", run_when_told)
        before = children()
        with EarlyCore(VllmOptions(cpu_threads=2)) as made:
            (pid,) = children() - before
            yield made, pid


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """Where the core writes what it finds."""
    return tmp_path / "found"


def write_down(path: Path, **_: Any) -> None:
    """What vLLM's core would be."""
    process = multiprocessing.current_process()
    path.write_text(f"{os.getpid()} {process.name} {os.environ.get('LOCAL_WORLD_SIZE')}")


def children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def as_configured() -> dict[str, str]:
    """What making vLLM's configuration sets."""
    from vllm.platforms import current_platform

    return environment._added_on_cpu() if current_platform.is_cpu() else {}


def started(early: EarlyCore, path: Path, name: str = "EngineCore", **more: Any) -> Any:
    """A process started as vLLM starts its core's."""
    from vllm.v1.engine import utils

    before = utils.get_mp_context
    with environment.child_environment(VllmOptions(cpu_threads=2)), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_WORLD_SIZE", "3")
        for variable, value in (as_configured() | more.pop("variables", {})).items():
            patch.setenv(variable, value)
        with early.offered():
            process = utils.get_mp_context().Process(target=write_down, name=name, kwargs={"path": path} | more)
            process.start()
    assert utils.get_mp_context is before
    process.join(DEADLINE_S)
    assert process.exitcode == 0
    return process


def test_becomes_the_core_with_its_name_and_environment(found: Path) -> None:
    with an_early_core() as (early, pid):
        process = started(early, found, name="EngineCore_DP0")
        assert process.pid == pid
        assert process.name == "EngineCore_DP0"
        assert found.read_text() == f"{pid} EngineCore_DP0 3"


def test_only_the_first_process_is_it(found: Path) -> None:
    with an_early_core() as (early, pid):
        assert started(early, found).pid == pid
        assert started(early, found).pid != pid


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "LD_PRELOAD", "VLLM_ANYTHING"])
def test_another_environment_takes_a_new_process(name: str, found: Path) -> None:
    with an_early_core() as (early, pid):
        assert started(early, found, variables={name: "17"}).pid != pid
        assert not psutil.pid_exists(pid)


def test_what_imports_change_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    started_in = dict(os.environ)
    # OpenCV adds a folder to this at each import: a second engine's core has it twice, a new one would as well.
    theirs = started_in | {"LD_LIBRARY_PATH": "there:there", "SET_BY_IMPORTS": "1"}
    assert environment.unlike(theirs, started_in) == []
    monkeypatch.setenv("SET_BY_IMPORTS", "1")
    assert environment.unlike(theirs, started_in) == []
    monkeypatch.setenv("SET_BY_IMPORTS", "2")
    assert environment.unlike(theirs, started_in) == ["SET_BY_IMPORTS"]


def test_what_only_a_new_process_can_have_takes_one(found: Path) -> None:
    with an_early_core() as (early, pid):
        lock = multiprocessing.get_context("spawn").Lock()
        assert started(early, found, tensor_queue=lock).pid != pid
        assert not psutil.pid_exists(pid)


def test_a_dead_one_is_replaced(found: Path) -> None:
    with an_early_core() as (early, pid):
        early.kill()
        assert started(early, found).pid != pid


def test_gone_where_vllm_does_not_take_it() -> None:
    with pytest.raises(ValueError, match="wrong"), an_early_core() as (_, pid):
        raise ValueError("wrong")
    assert not psutil.pid_exists(pid)


def test_does_not_keep_its_host_from_ending() -> None:
    code = (
        "import threading, time\n"
        "from engines.vllm.early_core import EarlyCore\n"
        "from engines.vllm.options import VllmOptions\n"
        "def boot():\n"
        "    with EarlyCore(VllmOptions()):\n"
        "        begun.set()\n"
        "        time.sleep(3600)\n"
        "begun = threading.Event()\n"
        "threading.Thread(target=boot, daemon=True).start()\n"
        "begun.wait()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE_S)


def test_without_vllm_there_is_none_and_the_boot_says_what_to_install() -> None:
    code = (
        "import asyncio, multiprocessing, sys\n"
        "from engines.errors import EngineFailed\n"
        "from tests.engines.vllm.booted import make_vllm\n"
        "sys.modules['vllm'] = None\n"
        "try:\n"
        "    asyncio.run(make_vllm('vllm-0', model='demo').start())\n"
        "except EngineFailed as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install 'penstock[cpu]'" in done.stdout
