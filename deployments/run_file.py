"""Which local fleets run on this machine: one small file each, so that commands and programs find them.

They are in the user's state directory (`$XDG_STATE_HOME/penstock`, by default `~/.local/state/penstock`), named by
port. A file whose process is gone means nothing and is removed when it is seen. A fleet's file says which process
`penstock down` ends and who gets the API key, so the folder and its files count only if no other user could write them.
"""

import os
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from deployments.private_folder import private_folder, read_private, write_private
from engines.errors import PenstockError


class FleetNotFound(PenstockError):
    """No local fleet runs, or it is not clear which one is meant; the message says what to do."""

    code = "fleet_not_found"


class RunFile(BaseModel):
    """One running local fleet.

    Attributes:
        name: The fleet's name.
        pid: The process that `penstock serve` is.
        pid_created_s: When that process began, in Unix time: process ids are used again.
        host: Where it answers.
        port: Where it answers.
        tls: Whether it speaks HTTPS there.
        ray_address: Its Ray cluster; empty until there is one.
        logs: Where its logs are.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    pid: int
    pid_created_s: float
    host: str
    port: int
    tls: bool = False
    ray_address: str = ""
    logs: Path

    @property
    def url(self) -> str:
        """Where it answers HTTP."""
        return http_url(self.host, self.port, tls=self.tls)

    def is_alive(self) -> bool:
        """Whether that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.pid_created_s) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def write(self) -> None:
        """Writes it, or writes it anew.

        Raises:
            NotPrivate: The folder is not this user's.
        """
        private_folder(_folder())
        write_private(_path(self.port), self.model_dump_json(indent=2) + "\n")

    def remove(self) -> None:
        """Removes it, unless another fleet has written its own meanwhile."""
        current = _read(_path(self.port))
        if current is not None and current.pid == self.pid:
            _path(self.port).unlink(missing_ok=True)


def http_url(host: str, port: int, *, tls: bool = False) -> str:
    """Where something that listens on that host answers from this machine."""
    every_v4 = "0.0.0.0"  # noqa: S104 - read here, not listened on
    reachable = {every_v4: "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{reachable}:{port}"


def running_fleets() -> list[RunFile]:
    """Every local fleet that runs, by port.

    Raises:
        NotPrivate: The folder of their files is not this user's.
    """
    folder = _folder()
    if not os.path.lexists(folder):
        return []
    fleets = []
    for path in sorted(private_folder(folder).glob("*.json")):
        fleet = _read(path)
        if fleet is None:
            continue
        if fleet.is_alive():
            fleets.append(fleet)
        else:
            path.unlink(missing_ok=True)
    return sorted(fleets, key=lambda fleet: fleet.port)


def find_fleet(port: int | None = None) -> RunFile:
    """The local fleet on that port, or the only one there is.

    Raises:
        FleetNotFound: There is none, or more than one.
        NotPrivate: The folder of their files is not this user's.
    """
    fleets = running_fleets()
    if port is not None:
        fleets = [fleet for fleet in fleets if fleet.port == port]
    if not fleets:
        where = f" on port {port}" if port is not None else ""
        raise FleetNotFound(f"No local fleet runs{where}. `penstock serve` starts one.")
    if len(fleets) > 1:
        ports = ", ".join(str(fleet.port) for fleet in fleets)
        raise FleetNotFound(f"Several local fleets run, on ports {ports}. Say which one: --port {fleets[0].port}")
    return fleets[0]


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "penstock"


def _path(port: int) -> Path:
    return _folder() / f"{port}.json"


def _read(path: Path) -> RunFile | None:
    text = read_private(path)
    try:
        return None if text is None else RunFile.model_validate_json(text)
    except ValidationError:
        return None
