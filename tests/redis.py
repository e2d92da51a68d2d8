"""A Redis of a test's own; needs `redis-server`."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

_START_S = 60.0


@contextmanager
def redis(host: str, port: int) -> Iterator[str]:
    """A Redis that keeps nothing on disk, at an address of this machine; that address. Skips where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed (Debian's package `redis-server`)")
    options = {"bind": host, "port": str(port), "save": "", "appendonly": "no", "protected-mode": "no"}
    command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + _START_S
        while not _answers(host, port):
            assert process.poll() is None and time.monotonic() < deadline_s, "Redis does not start"
            time.sleep(0.05)
        yield f"{host}:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1.0) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")
    return False
