"""`penstock build --ray-up`: a fleet's machines, as a file for Ray's cluster launcher.

The launcher starts Ray on them, with the fleet file and what it names beside it; `penstock serve --address auto` on the
head then deploys the fleet. Nothing is pinned to a machine: a load balancer finds out by `/ready` which have a router.
"""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from actors.instance.placement import room
from clusters.errors import ClusterError
from clusters.needs import http_files
from deployments.fleet_settings import FleetSettings
from deployments.http.key_source import is_loopback
from deployments.instance_gpus import gpus_of
from deployments.model_settings import ModelSettings

Provider = Literal["aws", "gcp", "local"]
FOLDER = "~/penstock"
"""Where the fleet file is on each node."""
_TOKEN = "~/.ray/auth_token"  # noqa: S105  # A path.
_OPEN_FILES = 65_536
_HEAD = {"aws": "m7i.xlarge", "gcp": "n2-standard-4"}
_CPU_NODES = {"aws": "m7i.2xlarge:8", "gcp": "n2-standard-8:8"}
_GPU_NODES = {
    "aws": ("g6.2xlarge:8:1", "g6.12xlarge:48:4", "g6.48xlarge:192:8"),
    "gcp": ("g2-standard-8:8:1", "g2-standard-24:24:2", "g2-standard-48:48:4", "g2-standard-96:96:8"),
}
"""The smallest first."""
_REGIONS = {"aws": "us-west-2", "gcp": "us-central1"}
_USERS = {"aws": "ubuntu", "gcp": "ubuntu"}
_DISK_GB = 200
_NOT_OF_NAMES = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class MachineType:
    """A type of machine, and what one has.

    Attributes:
        name: What the provider calls it.
        cpus: Its CPUs.
        gpus: Its GPUs.
    """

    name: str
    cpus: int
    gpus: int = 0

    @classmethod
    def parse(cls, option: str, text: str) -> Self:
        """Reads `TYPE:CPUS` or `TYPE:CPUS:GPUS`.

        Raises:
            ClusterError: It is neither.
        """
        found = re.fullmatch(r"([A-Za-z0-9.-]+):([1-9][0-9]{0,3})(?::([0-9]{1,2}))?", text)
        if found is None:
            raise ClusterError(f"{option} {text}: it must be a type of machine and what it has, TYPE:CPUS:GPUS.")
        return cls(found[1], int(found[2]), int(found[3] or 0))


@dataclass(frozen=True, slots=True)
class RayUpOptions:
    """Of the machines.

    Attributes:
        provider: Whose they are.
        image: Docker image that Ray runs in; None: Penstock is installed on the machines.
        programs: Folder of Penstock's programs on the machines; None: they are on the path.
        region: Region; None: the provider's first.
        zone: Zone; None: the region's first.
        project: Google Cloud's project.
        head_ip: Address of the head, of one's own machines.
        worker_ips: Addresses of the others.
        ssh_user: Who logs in.
        ssh_key: The file of that user's private key; None: the launcher makes one.
        env_file: A file of environment variables, `NAME=VALUE` a line; they are Ray's on each machine.
        machine_image: Image that the machines boot from, with Docker and the driver of GPUs; None: Ray's choice.
        cpu_node: Type of the machines without GPUs; None: a usual one.
        gpu_node: Type of those with GPUs; None: the smallest that holds an instance.
    """

    provider: Provider
    image: str | None = None
    programs: str | None = None
    region: str | None = None
    zone: str | None = None
    project: str | None = None
    head_ip: str | None = None
    worker_ips: Sequence[str] = field(default_factory=list)
    ssh_user: str | None = None
    ssh_key: Path | None = None
    env_file: Path | None = None
    machine_image: str | None = None
    cpu_node: MachineType | None = None
    gpu_node: MachineType | None = None

    def __post_init__(self) -> None:
        """Checks that the options go together.

        Raises:
            ClusterError: One is missing, or for another provider; the message names it.
        """
        if self.provider == "local":
            others: dict[str, object] = {
                "--region": self.region,
                "--zone": self.zone,
                "--project": self.project,
                "--machine-image": self.machine_image,
                "--cpu-node": self.cpu_node,
                "--gpu-node": self.gpu_node,
            }
            needed: dict[str, object] = {"--head-ip": self.head_ip, "--ssh-user": self.ssh_user}
        else:
            others = {"--head-ip": self.head_ip, "--worker-ip": self.worker_ips or None, "--bin": self.programs}
            needed = {"--image": self.image}
            if self.provider == "gcp":
                # Ray has no choice of its own there.
                needed |= {"--project": self.project, "--machine-image": self.machine_image}
        if self.provider == "aws":
            others["--project"] = self.project
        for option, value in others.items():
            if value is not None:
                raise ClusterError(f"{option} is not for --ray-up {self.provider}.")
        for option, value in needed.items():
            if value is None:
                raise ClusterError(f"{option} is missing: --ray-up {self.provider} needs it.")
        if self.programs is not None and not self.programs.startswith("/"):
            raise ClusterError(f"--bin {self.programs}: it must be an absolute path on the machines.")
        for option, path in (("--ssh-key", self.ssh_key), ("--env-file", self.env_file)):
            if path is not None and not path.expanduser().is_file():
                raise ClusterError(f"{option} {path}: there is no such file.")


def launcher_file(fleet: FleetSettings, file: Path, options: RayUpOptions) -> str:
    """The launcher's file as YAML, for `ray up`.

    Args:
        fleet: The fleet.
        file: Its file.
        options: Of the machines.

    Raises:
        ClusterError: The fleet cannot run there as it is, or an option is missing; the message names it.
    """
    _check(fleet, options)
    user = options.ssh_user or _USERS.get(options.provider, "")
    key = {} if options.ssh_key is None else {"ssh_private_key": str(options.ssh_key.expanduser().absolute())}
    config: dict[str, Any] = {
        "cluster_name": _NOT_OF_NAMES.sub("-", fleet.name).strip("-").lower() or "penstock",
        "provider": _provider(options),
        "auth": {"ssh_user": user, **key},
        "file_mounts": _mounts(fleet, file, options),
    }
    if options.image is not None:
        limit = f"--ulimit nofile={_OPEN_FILES}:{_OPEN_FILES}"
        config["docker"] = {"image": options.image, "container_name": "penstock", "run_options": [limit]}
    if options.provider != "local":
        types = _node_types(fleet, options)
        config["available_node_types"] = types
        config["head_node_type"] = "head"
        config["max_workers"] = sum(one.get("max_workers", 0) for one in types.values())
    if options.programs is not None:
        # `ray down` has a command of its own for the head, for which a shell that logs in must find Ray.
        line = shlex.quote(_path(options.programs))
        config["setup_commands"] = [f"grep -qsxF {line} ~/.bashrc || echo {line} >> ~/.bashrc"]
    begin = _beginning(options)
    head = "--head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml"
    config["head_start_ray_commands"] = [f"{begin}ray stop", f"{begin}ray start {head} --disable-usage-stats"]
    worker = "--address=$RAY_HEAD_IP:6379 --disable-usage-stats"
    config["worker_start_ray_commands"] = [f"{begin}ray stop", f"{begin}ray start {worker}"]
    said = "".join(f"# {line}\n" for line in _comments(file, options))
    return said + yaml.safe_dump(config, sort_keys=False, width=1000)


def _check(fleet: FleetSettings, options: RayUpOptions) -> None:
    http = fleet.http
    if is_loopback(http.host):
        raise ClusterError(
            f"http.host is {http.host}, and nobody reaches that from another machine. Set http.host: 0.0.0.0."
        )
    if http.keys.file is None and not (http.keys.pushed or http.open or options.env_file):
        raise ClusterError(
            f"Whoever reaches the machines could use the models. Set http.keys.file, or keys in the environment "
            f"variable {http.keys_env} by --env-file; or http.open: true, if that is meant."
        )
    if fleet.database is not None and fleet.database.file is not None:
        raise ClusterError(
            "database.file is SQLite, for router replicas of one machine. Use PostgreSQL: database.url or "
            "database.url_env."
        )


def _provider(options: RayUpOptions) -> dict[str, Any]:
    if options.provider == "local":
        return {"type": "local", "head_ip": options.head_ip, "worker_ips": list(options.worker_ips)}
    region = options.region or _REGIONS[options.provider]
    zone = options.zone or (f"{region}a" if options.provider == "aws" else f"{region}-a")
    provider: dict[str, Any] = {"type": options.provider, "region": region, "availability_zone": zone}
    if options.provider == "aws":
        # A machine that was stopped would come back with what was on it.
        return provider | {"cache_stopped_nodes": False}
    return provider | {"project_id": options.project}


def _mounts(fleet: FleetSettings, file: Path, options: RayUpOptions) -> dict[str, str]:
    """Files of this machine by their places on the others: the fleet's, what it names, and Ray's token."""
    folder = file.absolute().parent
    mounts = {f"{FOLDER}/fleet.yaml": str(file.absolute()), _TOKEN: str(Path(_TOKEN).expanduser())}
    if options.env_file is not None:
        mounts[f"{FOLDER}/env"] = str(options.env_file.expanduser().absolute())
    # Weights are not among them: they are on a disk that all share.
    for key, path in http_files(fleet.http).items():
        try:
            relative = Path(path).relative_to(folder)
        except ValueError:
            raise ClusterError(
                f"{key}: {path} is not beside the fleet file, and so on no other machine. Put it into {folder}, and "
                f"name it from there: ./{Path(path).name}."
            ) from None
        mounts[f"{FOLDER}/{relative}"] = path
    return mounts


def _beginning(options: RayUpOptions) -> str:
    path = "" if options.programs is None else f"{_path(options.programs)}; "
    variables = f"set -a; if [ -f {FOLDER}/env ]; then . {FOLDER}/env; fi; set +a; "
    # Its second version takes the head of machines of one's own for one that is gone, and starts no other.
    autoscaler = "export RAY_enable_autoscaler_v2=0; " if options.provider == "local" else ""
    return f"{path}{variables}{autoscaler}export RAY_AUTH_MODE=token; ulimit -n {_OPEN_FILES} || true; "


def _path(programs: str) -> str:
    return f"export PATH={programs}:$PATH"


def _node_types(fleet: FleetSettings, options: RayUpOptions) -> dict[str, Any]:
    cloud = options.provider
    cpu_node = options.cpu_node or MachineType.parse("--cpu-node", _CPU_NODES[cloud])
    # Ray's control service and Serve's controller have it for themselves.
    types: dict[str, Any] = {
        "head": {"node_config": _machine(options, _HEAD[cloud]), "resources": {"CPU": 0}, "max_workers": 0}
    }
    routers = fleet.router
    least = routers.cpus * routers.least_replicas
    most = 2 * routers.cpus * routers.most_replicas
    apart = 1
    for model in fleet.deployed:
        gpus = gpus_of(model, has_gpus=True) / model.nnodes
        if not gpus:
            if model.cpus > cpu_node.cpus:
                raise ClusterError(
                    f"An instance of {model.name} reserves {model.cpus:g} CPUs, and a machine of the type "
                    f"{cpu_node.name} has {cpu_node.cpus}: --cpu-node TYPE:CPUS."
                )
            least += model.cpus * model.least_replicas * model.nnodes
            most += model.cpus * model.most_in_upgrade * model.nnodes
            apart = max(apart, model.nnodes)
            continue
        node = options.gpu_node or _gpu_node(cloud, model, gpus)
        needs = {"GPU": gpus, "CPU": model.cpus} if model.cpus else {"GPU": gpus}
        fitting = room(needs, [{"GPU": node.gpus, "CPU": node.cpus}])
        if not fitting:
            raise ClusterError(
                f"No instance of {model.name} ({gpus:g} GPUs, {model.cpus:g} CPUs{_on_each(model)}) fits on a machine "
                f"of the type {node.name}: --gpu-node TYPE:CPUS:GPUS."
            )
        name = _NOT_OF_NAMES.sub("-", model.name).strip("-").lower() or "model"
        while name in types or name == "cpu":
            name += "-2"
        types[name] = {
            "node_config": _machine(options, node.name, has_gpus=True),
            "resources": {"CPU": node.cpus, "GPU": node.gpus},
            "min_workers": _machines(model.least_replicas, model.nnodes, fitting),
            # More, for the successors of a machine that is to go.
            "max_workers": _machines(model.most_in_upgrade, model.nnodes, fitting) + model.nnodes,
        }
    types["cpu"] = {
        "node_config": _machine(options, cpu_node.name),
        "resources": {"CPU": cpu_node.cpus},
        "min_workers": max(apart, math.ceil(least / cpu_node.cpus)),
        "max_workers": max(apart, math.ceil(most / cpu_node.cpus)) + apart,
    }
    return types


def _machines(instances: int, nnodes: int, fitting: int) -> int:
    """Machines that hold so many instances, each on so many of them; one machine has a place for `fitting`."""
    return max(nnodes, math.ceil(instances * nnodes / fitting)) if instances else 0


def _gpu_node(cloud: str, model: ModelSettings, gpus: float) -> MachineType:
    for text in _GPU_NODES[cloud]:
        node = MachineType.parse("--gpu-node", text)
        if node.gpus >= gpus and node.cpus >= model.cpus:
            return node
    raise ClusterError(
        f"An instance of {model.name} takes {gpus:g} GPUs and {model.cpus:g} CPUs{_on_each(model)}. Say on which "
        f"machines: --gpu-node TYPE:CPUS:GPUS."
    )


def _on_each(model: ModelSettings) -> str:
    return f" on each of {model.nnodes} machines" if model.nnodes > 1 else ""


def _machine(options: RayUpOptions, name: str, *, has_gpus: bool = False) -> dict[str, Any]:
    if options.provider == "aws":
        # Without an ImageId Ray takes AWS's image for deep learning, with Docker and NVIDIA's driver.
        image = {} if options.machine_image is None else {"ImageId": options.machine_image}
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": _DISK_GB, "VolumeType": "gp3"}}
        return {"InstanceType": name, "BlockDeviceMappings": [disk], **image}
    machine: dict[str, Any] = {
        "machineType": name,
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "type": "PERSISTENT",
                "initializeParams": {"diskSizeGb": _DISK_GB, "sourceImage": options.machine_image},
            }
        ],
    }
    if has_gpus:  # Such machines cannot be moved while they run.
        machine["scheduling"] = [{"onHostMaintenance": "TERMINATE"}]
    return machine


def _comments(file: Path, options: RayUpOptions) -> list[str]:
    programs = "" if options.programs is None else f"{options.programs}/"
    lines = [
        "Written by `penstock build --ray-up`, for:",
        "  ray up CLUSTER.yaml",
        f"  ray exec CLUSTER.yaml 'RAY_AUTH_MODE=token {programs}penstock serve {FOLDER}/fleet.yaml --address auto'",
        "After a change of the fleet file: ray up CLUSTER.yaml --no-restart, and the second line again.",
        f"All machines show Ray's token, {_TOKEN} of this one: `ray get-auth-token --generate` makes it.",
    ]
    if options.provider != "local":
        lines.append("Weights come from a model hub, or from a disk that all machines have: nothing here mounts one.")
    return lines
