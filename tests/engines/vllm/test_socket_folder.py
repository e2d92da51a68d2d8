"""Folders of sockets: whose process is dead is removed, and nobody else's."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.vllm.socket_folder import make_folder

_MAKES_ONE = (
    "import sys; from pathlib import Path; from engines.vllm.socket_folder import make_folder\n"
    "print(make_folder(Path(sys.argv[1])), flush=True); sys.stdin.read()"
)


def _made_by_another(parent: Path) -> tuple[Path, subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _MAKES_ONE, parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return Path(process.stdout.readline().strip()), process


def _grow_old(folder: Path) -> None:
    hour_ago_s = time.time() - 3600
    os.utime(folder, (hour_ago_s, hour_ago_s))


@pytest.mark.parametrize("is_killed", [True, False])
def test_the_folder_of_a_process_that_was_killed_is_removed(tmp_path: Path, is_killed: bool) -> None:
    folder, process = _made_by_another(tmp_path)
    try:
        (folder / "socket").touch()
        _grow_old(folder)
        if is_killed:
            process.kill()
            process.wait()
        own = make_folder(tmp_path)
        assert own.is_dir() and folder.exists() != is_killed
    finally:
        process.kill()
        process.communicate()


def test_one_that_is_just_being_made_and_one_without_a_lock_stay(tmp_path: Path) -> None:
    young, process = _made_by_another(tmp_path)
    process.kill()
    process.communicate()
    other = tmp_path / "penstock-vllm-other"
    other.mkdir()
    _grow_old(other)
    make_folder(tmp_path)
    assert young.exists() and other.exists()
