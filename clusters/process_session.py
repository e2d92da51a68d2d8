"""The POSIX session that a local fleet lives in: how to find every process of it, and end them all.

The fleet process starts a session of its own, and everything that it starts stays in there: Ray's daemons, their
workers, vLLM's engine cores, also those whose parent is gone. So what is left over is known by its session id alone,
and nothing else on the machine can be hit. A terminal's Ctrl-C does not reach them: only the command line hears it.
"""

import contextlib
import os
import signal
import time
from collections.abc import Collection

import psutil

_POLL_S = 0.05


def members(session: int, *, besides: Collection[int] = ()) -> list[int]:
    """Process ids of the session that still run (zombies do not)."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.pid not in besides and os.getsid(process.pid) == session
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    return found


def end(session: int, *, grace_s: float, besides: Collection[int] = ()) -> None:
    """Ends every process of the session: asks first, and after `grace_s` kills."""
    _signal(members(session, besides=besides), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline:
        if not members(session, besides=besides):
            return
        time.sleep(_POLL_S)
    # A killed process may have left a new one behind.
    while left := members(session, besides=besides):
        _signal(left, signal.SIGKILL)
        time.sleep(_POLL_S)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
