"""The host of a vLLM process: the one that started it, with which it is to end."""

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def ends_with_host() -> bool:
    """Lets the kernel kill this process at the end of its host; False: that has ended, and nobody wants it any more.

    Linux: `PR_SET_PDEATHSIG` of prctl(2), which looks at the thread that started the process.
    """
    if sys.platform != "linux":
        return True
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    host = multiprocessing.parent_process()
    return host is None or host.pid == os.getppid()
