"""What a fleet needs of this machine before Ray is asked: packages, adapters and memory."""

import math
from itertools import chain
from pathlib import Path

import psutil

from clusters.errors import ClusterError
from clusters.node_probe import is_installed
from deployments.fleet_settings import FleetSettings, HttpSettings
from deployments.model_settings import ModelSettings
from engines.adapters.adapter_files import AdapterFilesError
from engines.registry import options_type, parse_options

_GIB = 2**30
_RAY_BYTES = round(0.8 * _GIB)
"""About what Ray's own processes, the Serve controller and one router replica take."""


def logical_cpus(fleet: FleetSettings, cores: int) -> int:
    """CPUs that a local Ray is told it has: a count to place by, so that a fleet of one machine always fits.

    An upgrade included, which makes new routers, and new instances as `surge_percent` says, before the old ones end.
    """
    needed = 2 * fleet.router.cpus * fleet.router.most_replicas
    for model in fleet.deployed:
        needed += model.cpus * model.most_in_upgrade
    return max(cores, math.ceil(needed) + 1)


def check_packages(fleet: FleetSettings) -> None:
    """Checks that this machine has what the fleet's engines, operators and database import.

    Raises:
        ClusterError: It has not; the message says what to install.
    """
    for model in fleet.models:
        needed = [operator.options.packages for operator in model.operators]
        if isinstance(model, ModelSettings):
            needed.append(options_type(model.engine).packages)
        for package, remedy in chain.from_iterable(packages.items() for packages in needed):
            if not is_installed(package):
                raise ClusterError(f"The model {model.name!r} needs {package}, which is not installed: {remedy}.")

    if fleet.database is not None and fleet.database.file is None and not is_installed("asyncpg"):
        remedy = "`pip install 'penstock[postgresql]'`"
        raise ClusterError(f"The database needs asyncpg, which is not installed: {remedy}.")


def http_files(http: HttpSettings) -> dict[str, str]:
    """The files that routers read, by their keys in the fleet file."""
    named = {"http.keys.file": http.keys.file, "http.secret.file": http.secret.file}
    if http.tls is not None:
        named |= {f"http.tls.{key}": getattr(http.tls, key) for key in ("certificate", "key", "client_ca")}
    return {key: path for key, path in named.items() if path is not None}


def check_adapters(fleet: FleetSettings) -> None:
    """Checks the LoRA adapters that are folders of this machine, as far as their files tell.

    Raises:
        ClusterError: One cannot be loaded.
    """
    for model in fleet.deployed:
        options = parse_options(model.spec())
        for adapter in model.adapters:
            try:
                options.check_adapter(adapter)
            except AdapterFilesError as error:
                raise ClusterError(
                    f"The adapter {adapter.name!r} of the model {model.name!r} cannot be loaded from {adapter.path}: "
                    f"{error}."
                ) from None


def check_memory(fleet: FleetSettings, free_bytes: int) -> None:
    """Checks that a machine has memory for the whole fleet; a rough estimate, on the low side.

    Raises:
        ClusterError: It has not.
    """
    parts = [
        (
            f"{model.most_replicas} x {model.name}",
            model.most_replicas * options.memory_bytes(model.world_size),
        )
        for model in fleet.deployed
        for options in [parse_options(model.spec())]
    ]
    total = _RAY_BYTES + sum(amount for _, amount in parts)
    if total > free_bytes:
        listed = ", ".join(f"{name} {amount / _GIB:.1f}" for name, amount in parts)
        raise ClusterError(
            f"Too little memory: the fleet needs about {total / _GIB:.1f} GiB ({listed}, Ray {_RAY_BYTES / _GIB:.1f}), "
            f"and {free_bytes / _GIB:.1f} GiB are free. Lower `replicas`, or end something else."
        )


def free_memory_bytes() -> int:
    """Memory that this process and its children may still take: the machine's, or the container's where it is less."""
    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        return min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # No cgroup v2 here, or "max": no limit.
        return free
