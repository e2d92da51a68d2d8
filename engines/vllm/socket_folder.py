"""The folder of the sockets over which vLLM's processes speak: this user's alone, and gone with the process.

One that was killed leaves its folder behind. The next process removes it: each holds a lock on its own, which the
kernel gives up when it ends, however it ends.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

_PREFIX = "penstock-vllm-"
_LOCK = "lock"
_YOUNG_S = 60.0
"""A folder that is younger may not be locked yet."""


@cache
def socket_folder() -> str:
    """This process's folder, which only this user can enter; removed when the process ends."""
    folder = make_folder(Path(tempfile.gettempdir()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)


def make_folder(parent: Path) -> Path:
    """A new folder, locked for as long as this process lives; those of processes that are dead are removed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        _remove_if_left(folder)
    made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    # Open until the process ends; none that it starts inherits it.
    fcntl.flock(os.open(made / _LOCK, os.O_CREAT | os.O_RDWR, 0o600), fcntl.LOCK_EX)
    return made


def _remove_if_left(folder: Path) -> None:
    try:
        found = folder.lstat()
        if found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG_S:
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # Not one of these, or gone meanwhile.
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # Its process lives.
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
