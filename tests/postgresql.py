"""A real PostgreSQL server of this process's own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

START_S = 60.0
USER = "penstock"


class Server:
    """One that runs.

    Args:
        folder: Its files.
        programs: PostgreSQL's.
        identity: As whom it runs; it refuses to run as root.
    """

    def __init__(self, folder: Path, programs: Path, identity: dict[str, Any]) -> None:
        self.port = _free_port()
        self._password = secrets.token_urlsafe()
        self._folder = folder
        self._programs = programs
        self._identity = identity
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Makes its files."""
        file = self._folder / "password"
        file.write_text(self._password)
        if self._identity:
            for path in (self._folder, file):
                shutil.chown(path, self._identity["user"])
        options = ("--auth=scram-sha-256", f"--pwfile={file}", f"--username={USER}", "--no-sync", "-E", "UTF8")
        self._run("initdb", "-D", str(self._folder / "data"), *options)

    def start(self) -> None:
        """Starts it, and returns once it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [self._programs / "postgres", "-D", self._folder / "data", *options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._identity)
        self._wait()

    def stop(self) -> None:
        """Ends it at once, as a crash does."""
        if self._process is not None:
            # It ends its own processes on this, and leaves its files as they are.
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(START_S)
            self._process = None

    def url(self, database: str, *, password: bool = True) -> str:
        secret = f":{self._password}" if password else ""
        return f"postgresql://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    async def make_database(self) -> str:
        """A database of its own for one test; its name."""
        name = f"test_{secrets.token_hex(8)}"
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        return name

    def _wait(self) -> None:
        deadline_s = time.monotonic() + START_S
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            assert self._process is not None and self._process.poll() is None, self._log()
            assert time.monotonic() < deadline_s, self._log()
            time.sleep(0.05)

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str | Path] = [self._programs / program, *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **self._identity)

    def _log(self) -> str:
        return (self._folder / "log").read_text()


@contextmanager
def postgresql() -> Iterator[Server]:
    """A server, until the end."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-postgresql-"))
    server = Server(folder, _programs(), _identity())
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def _programs() -> Path:
    found = [Path(path).resolve().parent for path in filter(None, [shutil.which("initdb")])]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    for folder in found:
        if (folder / "initdb").exists():
            return folder
    pytest.skip("needs the server of PostgreSQL: apt install postgresql")


def _identity() -> dict[str, Any]:
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
