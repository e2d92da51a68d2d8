"""Network namespaces of this machine, joined by a bridge: a network of several machines, as far as sockets can tell."""

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass

import psutil


class NoNamespaces(Exception):
    """Network namespaces cannot be made here; says why."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """One machine of the network.

    Attributes:
        name: As `ip netns` lists it.
        address: Its address on the bridge.
        outside: The device at the bridge's end of its cable.
    """

    name: str
    address: str
    outside: str

    def command(self, *command: str) -> list[str]:
        """The command that runs this one inside."""
        return ["ip", "netns", "exec", self.name, *command]

    def processes(self) -> list[psutil.Process]:
        """What runs inside."""
        found = []
        for pid in map(int, _lines("netns", "pids", self.name)):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    def cut(self) -> None:
        """Cuts its cable: nothing is heard of it any more."""
        _ip("link", "set", self.outside, "down")

    def mend(self) -> None:
        """Mends its cable: what was sent meanwhile is sent again by who still waits for an answer to it."""
        _ip("link", "set", self.outside, "up")


class NamespaceNetwork:
    """A bridge with an address, and namespaces on it. Removes what an earlier run with the same prefix has left.

    Args:
        prefix: Begins the names of its namespaces and devices.
        subnet: The first three numbers of its addresses; the bridge, where the caller runs, has `.1`.

    Attributes:
        address: Of the bridge.

    Raises:
        NoNamespaces: They take root, iproute2, and a kernel that allows them.
    """

    def __init__(self, prefix: str, subnet: str) -> None:
        if os.geteuid() != 0:
            raise NoNamespaces("network namespaces take root")
        if shutil.which("ip") is None:
            raise NoNamespaces("network namespaces take the program `ip` (iproute2)")
        self._prefix = f"{prefix}-"
        self._subnet = subnet
        self._count = 0
        self._bridge = f"{prefix}-bridge"
        self.address = f"{subnet}.1"
        try:
            self.close()
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            _ip("netns", "add", f"{self._prefix}trial")
            _ip("netns", "del", f"{self._prefix}trial")
        except subprocess.CalledProcessError as error:
            raise NoNamespaces(f"network namespaces cannot be made here: {error.stderr.strip()}") from error

    def add(self) -> Namespace:
        """Adds a namespace with the next address."""
        self._count += 1
        number = self._count
        added = Namespace(f"{self._prefix}{number}", f"{self._subnet}.{number + 1}", f"{self._prefix}out{number}")
        inside = f"{self._prefix}in{number}"
        _ip("netns", "add", added.name)
        _ip("link", "add", added.outside, "type", "veth", "peer", "name", inside, "netns", added.name)
        _ip("link", "set", added.outside, "master", self._bridge, "up")
        _ip("-n", added.name, "addr", "add", f"{added.address}/24", "dev", inside)
        for device in (inside, "lo"):
            _ip("-n", added.name, "link", "set", device, "up")
        return added

    def kill(self) -> None:
        """Kills what runs in its namespaces."""
        for name in self._names():
            for pid in map(int, _lines("netns", "pids", name)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()

    def close(self) -> None:
        """Kills what runs in its namespaces, and removes them and its devices."""
        self.kill()
        for name in self._names():
            _ip("netns", "del", name)
        for line in _lines("-oneline", "link"):
            # The kernel takes the cables of a namespace away when the last of its processes has ended.
            if (device := line.split()[1].rstrip(":").partition("@")[0]).startswith(self._prefix):
                subprocess.run(["ip", "link", "del", device], check=False, stderr=subprocess.DEVNULL)

    def _names(self) -> list[str]:
        """Of the namespaces with its prefix, whoever has made them."""
        return [name for line in _lines("netns", "list") if (name := line.split()[0]).startswith(self._prefix)]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _lines(*arguments: str) -> list[str]:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout.splitlines()
