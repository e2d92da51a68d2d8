"""Machines that one logs in to by SSH: each a network, a process table and a home of its own, on this one.

Ray's launcher runs `ray stop` on its machines, which ends every Ray that it finds in the process table, and keeps its
notes in /tmp/ray: both are the machine's own here.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clusters.conftest import BOOT_S
from tests.network_namespaces import Namespace, NamespaceNetwork, NoNamespaces

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_OWN = """
mount --bind {folder}/ray /tmp/ray && mount --bind {folder}/passwd /etc/passwd && mkdir -p /run/sshd && exec "$@"
"""
_SSHD_CONFIG = """
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {home}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
MaxStartups 100
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """One of them.

    Attributes:
        address: Its address.
        home: Where its user is at home.
        inside: Its network.
        folder: Its files on this machine.
    """

    address: str
    home: Path
    inside: Namespace
    folder: Path

    def command(self, *command: str) -> list[str]:
        """The command that runs this one there, by hand."""
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return self.inside.command(*own, "sh", "-ec", _OWN.format(folder=self.folder), "sh", *command)


class Machines:
    """Makes them.

    Args:
        folder: Where their files are.
        network: Where they live.

    Attributes:
        key: The private key of their user.
    """

    def __init__(self, folder: Path, network: NamespaceNetwork) -> None:
        self._folder = folder
        self._network = network
        self._count = 0
        self.key = folder / "key"
        _make_key(self.key)

    def add(self) -> Machine:
        """Adds one; nothing runs there."""
        self._count += 1
        folder = self._folder / f"machine-{self._count}"
        home = folder / "home"
        for path in (home, folder / "ray"):
            path.mkdir(parents=True)
        lines = Path("/etc/passwd").read_text().splitlines()
        ours = [line for line in lines if not line.startswith("root:")]
        (folder / "passwd").write_text("\n".join([f"root:x:0:0:root:{home}:/bin/bash", *ours, ""]))
        Path("/tmp/ray").mkdir(exist_ok=True)
        inside = self._network.add()
        # Ray takes the address of the interface that leads to the rest of the world.
        _run(["ip", "-n", inside.name, "route", "add", "default", "via", self._network.address])
        return Machine(inside.address, home, inside, folder)

    def with_sshd(self) -> Machine:
        """Adds one that can be logged in to."""
        assert SSHD is not None
        machine = self.add()
        shutil.copy(self.key.with_suffix(".pub"), machine.home / "authorized_keys")
        _make_key(machine.folder / "host_key")
        config = machine.folder / "sshd_config"
        config.write_text(_SSHD_CONFIG.format(address=machine.address, folder=machine.folder, home=machine.home))
        command = machine.command(SSHD, "-D", "-e", "-f", str(config))
        with (machine.folder / "sshd.log").open("wb") as log:
            started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + BOOT_S
        while "Server listening" not in (machine.folder / "sshd.log").read_text():
            assert started.poll() is None and time.monotonic() < end, (machine.folder / "sshd.log").read_text()
            time.sleep(0.1)
        return machine


@contextlib.contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    """Makes some; skips the test where there can be none."""
    missing = [program for program in ("ssh", "rsync", "unshare", "ssh-keygen") if shutil.which(program) is None]
    if SSHD is None or missing:
        pytest.skip(f"not installed: {', '.join([*missing, *(['sshd'] if SSHD is None else [])])}")
    try:
        network = NamespaceNetwork("psm", "10.79.0")
    except NoNamespaces as error:
        pytest.skip(str(error))
    try:
        yield Machines(folder, network)
    finally:
        network.close()


def _make_key(path: Path) -> None:
    _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)])


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
