"""What a server's processes cost, by role: CPU time and memory, from /proc."""

import os
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Role(StrEnum):
    """What a process does for the server; the same words for both sides."""

    API_SERVER = "API server"
    ROUTER = "router"
    ENGINE_ACTOR = "engine actor"
    ENGINE_CORE = "engine core"
    ENGINE_WORKER = "engine worker"
    RAYLET = "raylet, GCS"
    REST = "rest"

    @property
    def serves(self) -> bool:
        """Whether it carries tokens between the engine core and the client: what serving itself costs."""
        return self not in (Role.ENGINE_CORE, Role.ENGINE_WORKER)


# First match wins. Titles are what the processes call themselves (`ray::...`, `VLLM::...`), or their command line.
_ROLES = (
    (re.compile(r"VLLM::EngineCore"), Role.ENGINE_CORE),
    (re.compile(r"VLLM::Worker"), Role.ENGINE_WORKER),
    (re.compile(r"ray::ServeReplica:.*[Rr]outer"), Role.ROUTER),
    (re.compile(r"ray::.*EngineActor"), Role.ENGINE_ACTOR),
    (re.compile(r"^\S*/(raylet|gcs_server)(\s|$)"), Role.RAYLET),
    (re.compile(r"vllm\.entrypoints\.openai\.api_server"), Role.API_SERVER),
)


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment.

    Attributes:
        title: Its command line, or what it calls itself.
        start_ticks: When it started; with the pid, its identity.
        cpu_s: CPU seconds that it has used, user and system.
    """

    pid: int
    parent: int
    title: str
    start_ticks: int
    cpu_s: float

    @property
    def role(self) -> Role:
        """What it does for its server."""
        for pattern, role in _ROLES:
            if pattern.search(self.title):
                return role
        return Role.REST

    @property
    def identity(self) -> tuple[int, int]:
        """Names it alone: a pid is used again, a pid with its start time is not."""
        return self.pid, self.start_ticks

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        now = _process(self.pid)
        return now is not None and now.identity == self.identity


def descendants(root: int) -> list[Process]:
    """The process and all its descendants, as they are now; empty when it is gone."""
    processes = {process.pid: process for process in _all_processes()}
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    wave = [processes[root]] if root in processes else []
    while wave:
        found += wave
        wave = [child for process in wave for child in children.get(process.pid, ())]
    return found


@contextmanager
def frozen(roots: Iterable[int]) -> Iterator[None]:
    """Suspends process trees while its body runs."""
    # Each tree at once, in one go: what is half awake would take the other half for dead.
    suspended = [process for root in roots for process in descendants(root)]
    try:
        for process in suspended:
            _signal(process, signal.SIGSTOP)
        yield
    finally:
        for process in suspended:
            _signal(process, signal.SIGCONT)


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if process.alive:
            os.kill(process.pid, number)


class CpuMeter:
    """CPU time that a process tree uses from now on."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._before = {process.identity: process.cpu_s for process in descendants(root)}

    def read_s(self) -> dict[Role, float]:
        """CPU seconds since this was made, by role; what a process that ended meanwhile used is not in it."""
        used: dict[Role, float] = {}
        for process in descendants(self._root):
            before_s = self._before.get(process.identity, 0.0)
            used[process.role] = used.get(process.role, 0.0) + process.cpu_s - before_s
        return used


class MachineMeter:
    """CPU time that everything on the machine uses from now on."""

    def __init__(self) -> None:
        self._before_s = _machine_busy_s()

    def read_s(self) -> float:
        """CPU seconds since this was made."""
        return _machine_busy_s() - self._before_s


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one process.

    Attributes:
        rss_bytes: Resident, shared pages counted in full.
        pss_bytes: Resident, each shared page counted as the share of one among its users.
        own_bytes: Resident and its own alone: what the machine would have free without it.
    """

    rss_bytes: int
    pss_bytes: int
    own_bytes: int


def memory_of(pid: int) -> Memory:
    """The memory of a process now.

    Raises:
        OSError: It is gone, or another user's.
    """
    sizes: dict[str, int] = {}
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
        name, _, size = line.partition(":")
        sizes[name] = int(size.split()[0]) * 1024
    return Memory(sizes["Rss"], sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"])


def _machine_busy_s() -> float:
    with (_PROC / "stat").open() as stat:
        # proc(5): user nice system idle iowait irq softirq steal; guest time is in user already.
        user, nice, system, _, _, irq, softirq, *_ = (int(field) for field in stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def _all_processes() -> list[Process]:
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [process for pid in pids if (process := _process(pid)) is not None]


def _process(pid: int) -> Process | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
        title = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None  # It ended meanwhile.
    # The name, in parentheses, may itself hold spaces and parentheses; proc(5) numbers the fields from 1.
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        title=title.strip(),
        start_ticks=int(fields[19]),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
    )
