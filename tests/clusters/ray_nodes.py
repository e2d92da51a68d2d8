"""A Ray cluster whose nodes live in network namespaces, started as on any machine: by `ray start`."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.clusters.conftest import BOOT_S, ROOT, is_loopback
from tests.clusters.ray_ports import GCS, HEAD_OPTIONS, HTTP, NODE_OPTIONS, kind
from tests.network_namespaces import Namespace, NamespaceNetwork, NoNamespaces

TOKEN = "0123456789abcdef" * 4
KEY = "secret"
FLEET = f"""
name: guest
router: {{cpus: 0.1}}
http: {{host: 0.0.0.0, port: {HTTP}}}
models:
  - {{name: sim, engine: simulated, replicas: REPLICAS, cpus: 3, options: {{speed: 0}}}}
"""
"""An instance takes most of a node, so that no two are on one."""
_LIST_SOCKETS = """
import json, socket, psutil
takes = [
    one for one in psutil.net_connections("inet")
    if not one.raddr and (one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM)
]
print(json.dumps([(psutil.Process(one.pid).name() if one.pid else "", one.laddr) for one in takes]))
"""
_TRIES = 5
ON_HEAD = "on-head"
"""A resource that only the head has."""
_STORE_BYTES = 80 * 2**20


@contextlib.contextmanager
def ray_nodes(home: Path, prefix: str = "psp", subnet: str = "10.78.0") -> Iterator["RayNodes"]:
    """A cluster without nodes yet, with a network of its own; skips the test where there can be none.

    Args:
        home: Of the person who starts it.
        prefix: As `NamespaceNetwork` takes it; another one for each module, since several may run at a time.
        subnet: Likewise.
    """
    try:
        network = NamespaceNetwork(prefix, subnet)
    except NoNamespaces as error:
        pytest.skip(str(error))
    nodes = RayNodes(home, network)
    try:
        yield nodes
    finally:
        nodes.close()


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that takes what others on the network send.

    Attributes:
        process: Name of its process.
        address: Of its node.
        port: Its port.
        kind: What kind of port it is; None: of none that is known.
    """

    process: str
    address: str
    port: int
    kind: str | None


class RayNodes:
    """Needs root. A person with a home of their own, in which Ray's token lies, starts all of it.

    Args:
        home: That home.
        network: Where its nodes live.

    Attributes:
        network: As given.
        nodes: Its nodes; the first is the head.
        environment: Of all that is started there.
    """

    def __init__(self, home: Path, network: NamespaceNetwork) -> None:
        self.nodes: list[Namespace] = []
        self._home = home
        self.network = network
        self._folders: list[str] = []
        self._starts = 0
        token = home / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text(TOKEN)
        token.chmod(0o600)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "PENSTOCK_API_KEYS": KEY,
        }

    def add(self, node: Namespace, environment: dict[str, str], cpus: int = 4) -> None:
        """Starts Ray there, the head's first, with more in its environment, and returns once it has joined."""
        self._boot(node, environment, cpus, is_head=not self.nodes)
        self.nodes.append(node)

    def kill_gcs(self) -> None:
        """Kills Ray's control service (`kill -9`); the head's other processes then end by themselves."""
        (gcs,) = (process for process in self.nodes[0].processes() if process.name() == "gcs_server")
        gcs.kill()
        end = time.monotonic() + BOOT_S
        while running := [process for process in self.nodes[0].processes() if process.name() == "raylet"]:
            assert time.monotonic() < end, running
            time.sleep(0.1)

    def revive_head(self, environment: dict[str, str], cpus: int = 4) -> None:
        """Starts a head anew in the place of the one that ended, as whatever watches over it does."""
        for process in self.nodes[0].processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._boot(self.nodes[0], environment, cpus, is_head=True)

    def _boot(self, node: Namespace, environment: dict[str, str], cpus: int, *, is_head: bool) -> None:
        options: dict[str, str | int] = {
            "node-ip-address": node.address,
            "num-cpus": cpus,
            "object-store-memory": _STORE_BYTES,
            **NODE_OPTIONS,
        }
        if not is_head:
            options["address"] = f"{self.nodes[0].address}:{GCS}"
        else:
            options |= {**HEAD_OPTIONS, "dashboard-host": "0.0.0.0", "resources": json.dumps({ON_HEAD: 1})}
        # Ray gives its daemons 30 s, which a busy machine may not have.
        for left in reversed(range(_TRIES)):
            output = self._start(node, options, environment)
            if output is None:
                break
            assert left, output

    def serve(self, environment: dict[str, str], fleet: str = FLEET) -> str:
        """Serves a fleet, by default with an instance on each node, from the head's machine; what that has said."""
        (self._home / "fleet.yaml").write_text(fleet.replace("REPLICAS", str(len(self.nodes))))
        return self.penstock("serve", "fleet.yaml", "--address", f"{self.nodes[0].address}:{GCS}", **environment)

    def check(self, fleet: str) -> str:
        """What `penstock check` says of a fleet on this cluster."""
        (self._home / "fleet.yaml").write_text(fleet)
        return self.penstock("check", "fleet.yaml", "--address", f"{self.nodes[0].address}:{GCS}")

    def penstock(self, *arguments: str, **environment: str) -> str:
        """Runs the command to its good end on the head's machine, with more in its environment; what it has said."""
        done = subprocess.run(
            self.nodes[0].command(sys.executable, "-m", "clusters", *arguments),
            capture_output=True,
            text=True,
            timeout=BOOT_S,
            env=self.environment | environment,
            cwd=self._home,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def listeners(self) -> list[Listener]:
        """What takes connections or datagrams on its nodes, but for what is on loopback."""
        return [listener for node in self.nodes for listener in self._listeners(node)]

    def close(self) -> None:
        """Ends it."""
        self.network.close()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, node: Namespace, options: dict[str, str | int], environment: dict[str, str]) -> str | None:
        """Starts a node; None, or what it has said where it did not come up."""
        folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Short: paths of sockets are bounded.
        self._folders.append(folder)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        command += [f"--temp-dir={folder}", *([] if "address" in options else ["--head"])]
        self._starts += 1
        path = self._home / f"ray-start-{self._starts}"
        with path.open("wb") as output:
            started = subprocess.Popen(
                node.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment | environment,
                cwd=self._home,
            )
        end = time.monotonic() + BOOT_S
        while "Ray runtime started" not in path.read_text():
            if started.poll() is not None or time.monotonic() > end:
                for process in node.processes():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                started.wait()
                return path.read_text()
            time.sleep(0.1)
        return None

    def _listeners(self, node: Namespace) -> list[Listener]:
        # From inside: elsewhere the kernel does not list them.
        command = node.command(sys.executable, "-c", _LIST_SOCKETS)
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=BOOT_S)
        return [
            Listener(process, node.address, port, kind(process, port))
            for process, (address, port) in json.loads(listed.stdout)
            if not is_loopback(address)
        ]
