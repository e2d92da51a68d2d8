"""Starts the two servers that are compared, with the same engine options, and stops them again."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.answer_reader import BadAnswer
from tests.benchmarks.connection import Connection
from tests.benchmarks.processes import descendants
from tests.benchmarks.prompts import chat_request

HOST = "127.0.0.1"
_BOOT_LIMIT_S = 600.0
_STOP_LIMIT_S = 60.0
_RETRY_S = 0.5
_LOG_TAIL_BYTES = 4000


class NoAnswer(Exception):
    """A server gives no good answer."""


class BootFailed(NoAnswer):
    """A server did not come up; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """How to start one server.

    Attributes:
        name: For tables.
        command: Program and arguments.
        environment: What it gets besides the environment of this process.
        model: What to ask it for.
        port: Where it will listen.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    model: str
    port: int


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers.

    Attributes:
        plan: How it was started.
        pid: Its first process; the others descend from it.
        boot_s: Seconds from its start to its first answer.
    """

    plan: ServerPlan
    pid: int
    boot_s: float


@contextlib.asynccontextmanager
async def running(plan: ServerPlan, log: Path) -> AsyncIterator[Server]:
    """Starts a server, waits for its first answer, and stops it in the end, with all that descends from it.

    Raises:
        BootFailed: It ended, or gave no good answer in time.
    """
    began_s = time.monotonic()
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *plan.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=os.environ | plan.environment,
            start_new_session=True,  # a Ctrl-C here is not theirs; they are stopped in order below
        )
    try:
        try:
            await answer(plan, _BOOT_LIMIT_S, given_up=lambda: process.returncode is not None)
        except NoAnswer as error:
            ended = f" It ended with code {process.returncode}." if process.returncode is not None else ""
            raise BootFailed(f"{error}.{ended} The end of {log}:\n{_tail(log)}") from None
        yield Server(plan, process.pid, time.monotonic() - began_s)
    finally:
        await _stop(process)


async def answer(plan: ServerPlan, limit_s: float, given_up: Callable[[], bool] = lambda: False) -> None:
    """Returns when one token came back: the only sign of life that means the same for every server.

    Args:
        plan: Whom to ask, again and again.
        limit_s: For so many seconds.
        given_up: Or until this says so.

    Raises:
        NoAnswer: No good answer came; the message says what came last.
    """
    last: Exception | None = None
    request = chat_request(f"{HOST}:{plan.port}", plan.model, "ready", 1)
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s and not given_up():
        try:
            connection = await Connection.open(HOST, plan.port)
            try:
                async with asyncio.timeout(30):
                    await connection.post(request, 1)
                    return
            finally:
                connection.close()
        except (OSError, BadAnswer, TimeoutError) as error:
            last = error
        await asyncio.sleep(_RETRY_S)
    raise NoAnswer(f"{plan.name} gives no good answer: {last}")


def _tail(log: Path) -> str:
    return log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")


async def _stop(process: asyncio.subprocess.Process) -> None:
    tree = descendants(process.pid)
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_LIMIT_S)
    for known in tree:
        if known.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(known.pid, signal.SIGKILL)
    await process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
