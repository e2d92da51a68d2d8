import subprocess
import sys

import pytest

from actors.daemon_thread import in_daemon_thread


async def test_the_result_and_the_error_come_back() -> None:
    assert await in_daemon_thread(lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 // 0)


def test_work_that_never_ends_does_not_keep_the_process() -> None:
    program = """
import asyncio, threading
from actors.daemon_thread import in_daemon_thread

async def main():
    in_daemon_thread(threading.Event().wait)

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
