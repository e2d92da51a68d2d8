"""A fleet as it runs in pods: where it listens, where its files are mounted, and which pods its parts live in."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from actors.instance.placement import room
from clusters.errors import ClusterError
from clusters.kuberay.options import KubeRayOptions
from deployments.engine_deployment import shutdown_timeout_s
from deployments.fleet_settings import FleetSettings, HttpSettings
from deployments.http.key_source import is_loopback
from deployments.instance_gpus import gpus_of
from deployments.model_settings import ModelSettings

ROUTERS = "routers"
KEYS = PurePosixPath("/etc/penstock/keys/keys.yaml")
SIGNING = PurePosixPath("/etc/penstock/signing/secret")
TLS = PurePosixPath("/etc/penstock/tls")
_RAY_CPUS = 1.0
"""What Ray's own processes take of a pod."""
_NOTICE_S = 10.0
"""A router that ends goes on taking connections for so long: its pod stays, and only its probe tells the Service."""
_LONGEST_GROUP = 40
"""Names of pods hold the name of their group, and end with what Kubernetes adds."""
_NO_LETTERS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """The pods of one model's instances.

    Attributes:
        name: Name of the group of pods.
        model: The model, pinned to them.
        per_pod: Instances that one pod holds: several only where they share a GPU. One over several nodes has a pod on
            each.
        gpus: GPUs of a pod.
    """

    name: str
    model: ModelSettings
    per_pod: int
    gpus: int

    @property
    def least(self) -> int:
        """Pods that there always are."""
        return self._pods(self.model.least_replicas)

    @property
    def most(self) -> int:
        """Pods that there may be: an upgrade's included, and those for the successor of what is on one that goes."""
        return self._pods(self.model.most_in_upgrade) + self.model.nnodes

    def _pods(self, instances: int) -> int:
        return math.ceil(instances / self.per_pod) * self.model.nnodes

    @property
    def cpus(self) -> float:
        """CPUs of a pod."""
        return self.model.cpus * self.per_pod + _RAY_CPUS

    @property
    def drain_s(self) -> float:
        """What an instance that ends may take."""
        return shutdown_timeout_s(self.model)

    @property
    def resources(self) -> dict[str, float]:
        """What a pod has, as Ray counts it."""
        custom = {name: amount * self.per_pod for name, amount in self.model.custom_resources.items()}
        return {"CPU": self.model.cpus * self.per_pod, "GPU": self.gpus, **custom}


@dataclass(frozen=True, slots=True)
class FleetInPods:
    """A fleet, changed to run in pods.

    Attributes:
        name: Name of the RayService.
        fleet: The fleet, its router replicas and instances pinned to the pods of their groups.
        groups: The groups of instances' pods.
    """

    name: str
    fleet: FleetSettings
    groups: Sequence[InstanceGroup]


def place_of(group: str) -> str:
    """The Ray resource that only pods of this group have. KubeRay takes names that end with `gpu` for GPUs."""
    return f"{group}-place"


def fleet_in_pods(fleet: FleetSettings, options: KubeRayOptions) -> FleetInPods:
    """The fleet as it runs in pods.

    Raises:
        ClusterError: It cannot run there as it is, or an option is missing; the message names it.
    """
    http = _http(fleet.http, options)
    _check_database(fleet, options)
    _check_paths(fleet, options)
    names = _group_names(fleet.deployed)
    groups = [_group(name, model, options) for name, model in zip(names, fleet.deployed, strict=True)]
    pinned = {group.model.name: group.model for group in groups}
    router = fleet.router.model_copy(update={"resources": fleet.router.resources | {place_of(ROUTERS): 1.0}})
    models = [pinned.get(model.name, model) for model in fleet.models]
    return FleetInPods(
        _name(fleet.name), fleet.model_copy(update={"http": http, "router": router, "models": models}), groups
    )


def _name(fleet: str) -> str:
    name = _NO_LETTERS.sub("-", fleet.lower()).strip("-")
    # KubeRay adds to it, and DNS takes no more than 63 letters.
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,46}", name):
        raise ClusterError(
            f"The fleet's name {fleet!r} cannot be that of a RayService: it must begin with a letter, and have at most "
            f"47 letters, digits and hyphens. Change `name` in the fleet file."
        )
    return name


def _group_names(models: Sequence[ModelSettings]) -> list[str]:
    names: list[str] = []
    for model in models:
        base = _NO_LETTERS.sub("-", model.name.lower()).strip("-")[:_LONGEST_GROUP].rstrip("-") or "model"
        base = base if base[0].isalpha() else f"model-{base}"
        name, count = base, 1
        # KubeRay has a group of its own, too.
        while name in names or name in (ROUTERS, "headgroup"):
            count += 1
            name = f"{base}-{count}"
        names.append(name)
    return names


def _group(name: str, model: ModelSettings, options: KubeRayOptions) -> InstanceGroup:
    # Decided here: the cluster may have none yet when Serve asks, since its nodes come with the pods.
    gpus = gpus_of(model, has_gpus=options.uses_gpus)
    on_each = gpus / model.nnodes
    per_pod = room({"GPU": on_each}, [{"GPU": math.ceil(on_each)}]) if gpus else 1
    pinned = model.model_copy(update={"gpus": gpus, "resources": model.resources | {place_of(name): 1.0}})
    return InstanceGroup(name, pinned, per_pod, math.ceil(on_each))


def _http(http: HttpSettings, options: KubeRayOptions) -> HttpSettings:
    if http.port == 0:
        raise ClusterError("http.port is 0, and a Service takes a port that is known. Set it, such as 8000.")
    changes: dict[str, Any] = {
        "host": "0.0.0.0" if is_loopback(http.host) else http.host,  # noqa: S104
        "notice_s": max(http.notice_s, _NOTICE_S),
    }
    if http.keys.file is not None:
        _needs(options.keys_secret, "http.keys.file", "--keys-secret")
        changes["keys"] = http.keys.model_copy(update={"file": str(KEYS)})
    elif options.keys_secret is not None:
        raise ClusterError("--keys-secret holds a file of keys, and the fleet names none. Set http.keys.file.")
    elif not (http.keys.pushed or http.open or options.env_secrets):
        raise ClusterError(
            f"Whoever reaches the pods could use the models. Set http.keys.file, or keys in the environment variable "
            f"{http.keys_env} by --env-secret; or http.open: true, if that is meant."
        )
    if http.secret.file is not None:
        _needs(options.signing_secret, "http.secret.file", "--signing-secret")
        changes["secret"] = http.secret.model_copy(update={"file": str(SIGNING)})
    elif options.signing_secret is not None:
        raise ClusterError(
            "--signing-secret holds the fleet's secrets, and the fleet names no file of them. Set http.secret.file."
        )
    if http.tls is not None:
        _needs(options.tls_secret, "http.tls", "--tls-secret")
        files = {"certificate": "tls.crt", "key": "tls.key"}
        if http.tls.client_ca is not None:
            files["client_ca"] = "ca.crt"
        changes["tls"] = http.tls.model_copy(update={key: str(TLS / file) for key, file in files.items()})
    elif options.tls_secret is not None:
        raise ClusterError("--tls-secret holds a certificate, and the fleet speaks plain HTTP. Set http.tls.")
    return http.model_copy(update=changes)


def _needs(secret: str | None, key: str, option: str) -> None:
    if secret is None:
        raise ClusterError(f"{key} is a file of this machine. Put it into a Secret, and name that: {option} NAME.")


def _check_database(fleet: FleetSettings, options: KubeRayOptions) -> None:
    if fleet.database is None:
        return
    if fleet.database.file is not None:
        raise ClusterError(
            "database.file is SQLite, for router replicas of one machine; pods share none. Use PostgreSQL: "
            "database.url or database.url_env."
        )
    if fleet.database.url_env is not None and not options.env_secrets:
        raise ClusterError(
            f"database.url_env: no pod has the environment variable {fleet.database.url_env}. Name a Secret that holds "
            f"it: --env-secret NAME."
        )


def _check_paths(fleet: FleetSettings, options: KubeRayOptions) -> None:
    mounts = [volume.path for volume in options.volumes]
    for field, text in _files(fleet):
        path = PurePosixPath(text)
        if any(mount == path or mount in path.parents for mount in mounts):
            continue
        remedy = f"Mount a claim that has it: --volume CLAIM:{path.parent}."
        if field.endswith("api_key_file"):
            remedy = "Name an environment variable instead, api_key_env, and a Secret that holds it: --env-secret NAME."
        raise ClusterError(f"{field}: no pod has {text}. {remedy}")


def _files(fleet: FleetSettings) -> Iterator[tuple[str, str]]:
    """Absolute paths of the models, by their places in the fleet file."""
    for position, model in enumerate(fleet.models):
        if isinstance(model, ModelSettings):
            for adapter, one in enumerate(model.adapters):
                if one.path.startswith("/"):
                    yield f"models.{position}.adapters.{adapter}.path", one.path
            yield from _paths_in(model.options, f"models.{position}.options")


def _paths_in(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths_in(item, f"{place}.{key}")
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _paths_in(item, f"{place}.{position}")
    elif isinstance(value, str) and value.startswith("/") and "\n" not in value:
        yield place, value
