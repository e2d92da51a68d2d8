"""What `penstock build --kuberay` is told besides the fleet file: of the Kubernetes cluster, and what is there."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, Self

from clusters.errors import ClusterError

Upgrade = Literal["NewCluster", "None"]
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_MEMORY = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti|M|G|T)")
_ADDRESS = re.compile(r"[A-Za-z0-9._-]+:[0-9]{1,5}")
_OURS = PurePosixPath("/etc/penstock")
"""Where secrets are mounted."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A PersistentVolumeClaim, and where pods have it.

    Attributes:
        claim: Its name.
        path: Absolute, in each pod.
        is_read_only: Whether pods may only read it.
    """

    claim: str
    path: PurePosixPath
    is_read_only: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `CLAIM:/PATH` or `CLAIM:/PATH:ro`.

        Raises:
            ClusterError: It is neither.
        """
        claim, _, rest = text.partition(":")
        path, _, mode = rest.partition(":")
        where = PurePosixPath(path)
        if not _NAME.fullmatch(claim) or not where.is_absolute() or ".." in where.parts or mode not in ("", "ro"):
            raise ClusterError(
                f"--volume {text}: it must be the name of a PersistentVolumeClaim and a path in the pods, such as "
                f"--volume weights:/models or --volume weights:/models:ro."
            )
        if where == PurePosixPath("/") or where == _OURS or _OURS in where.parents:
            raise ClusterError(f"--volume {text}: {where} is taken in the pods. Choose another path.")
        return cls(claim, where, mode == "ro")


@dataclass(frozen=True, slots=True)
class SecretKey:
    """One entry of a Secret."""

    secret: str
    key: str

    @classmethod
    def parse(cls, option: str, text: str, default_key: str) -> Self:
        """Reads `NAME` or `NAME/KEY`.

        Raises:
            ClusterError: It is neither.
        """
        secret, _, key = text.partition("/")
        key = key or default_key
        if not _NAME.fullmatch(secret) or not _KEY.fullmatch(key):
            raise ClusterError(f"{option} {text}: it must be the name of a Secret, or NAME/KEY for one entry of it.")
        return cls(secret, key)


@dataclass(frozen=True, slots=True)
class KubeRayOptions:
    """Of the Kubernetes cluster, and of what is in it by now; names of secrets and claims, never what they hold.

    Attributes:
        image: Image of all pods: Penstock, and Ray in the version of this machine.
        namespace: Namespace of all objects; None: kubectl's.
        volumes: PersistentVolumeClaims with weights.
        env_secrets: Secrets whose entries are environment variables of the pods: API keys, the database's URL, tokens
            of model hubs and providers.
        keys_secret: Secret with the file of keys, as its entry `keys.yaml`.
        signing_secret: Secret with the fleet's secrets, as its entry `secret`.
        tls_secret: Secret of the type kubernetes.io/tls.
        token_secret: Secret with Ray's token, as its entry `auth_token`; None: KubeRay makes one for each cluster.
        redis: HOST:PORT of a Redis that keeps what Ray's control service knows; None: it is lost with the head.
        redis_password: Its password; None: it asks for none.
        uses_gpus: Whether engines that can use GPUs get some.
        gpu_resource: What Kubernetes calls the GPUs.
        node_selector: Labels of the nodes for instances' pods.
        memory: Memory of an instance's pod; None: an estimate.
        router_memory: Memory of a router's pod.
        head_memory: Memory of the head.
        longest_stream_s: Streams of the old cluster get so long to end, in an upgrade by a new one.
        notice_s: What a pod that is to go gets for its successor to boot, before its own drain.
        upgrade: What becomes of a changed pod: a new cluster beside the old one, or nothing.
        service_type: Type of the Service.
    """

    image: str
    namespace: str | None = None
    volumes: Sequence[Volume] = ()
    env_secrets: Sequence[str] = ()
    keys_secret: str | None = None
    signing_secret: str | None = None
    tls_secret: str | None = None
    token_secret: str | None = None
    redis: str | None = None
    redis_password: SecretKey | None = None
    uses_gpus: bool = True
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = field(default_factory=dict)
    memory: str | None = None
    router_memory: str = "4Gi"
    head_memory: str = "8Gi"
    longest_stream_s: int = 3600
    notice_s: int = 300
    upgrade: Upgrade = "NewCluster"
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"

    def __post_init__(self) -> None:
        """Checks what a person wrote.

        Raises:
            ClusterError: Something cannot be; the message names the option.
        """
        if not self.image or any(letter.isspace() for letter in self.image):
            raise ClusterError(f"--image {self.image!r}: it must be the name of an image.")
        for option, name in self._names():
            if not _NAME.fullmatch(name) or len(name) > 253:
                raise ClusterError(f"{option} {name}: Kubernetes has no such names.")
        for option, memory in (
            ("--memory", self.memory),
            ("--router-memory", self.router_memory),
            ("--head-memory", self.head_memory),
        ):
            if memory is not None and not _MEMORY.fullmatch(memory):
                raise ClusterError(f"{option} {memory}: it must be an amount of memory, such as 16Gi.")
        if self.redis is not None and not _ADDRESS.fullmatch(self.redis):
            raise ClusterError(f"--redis {self.redis}: it must be HOST:PORT.")
        if self.redis is None and self.redis_password is not None:
            raise ClusterError("--redis-password-secret is the password of a Redis: say which, --redis HOST:PORT.")
        if not _LABEL_KEY.fullmatch(self.gpu_resource):
            raise ClusterError(f"--gpu-resource {self.gpu_resource}: it must be a name such as nvidia.com/gpu.")
        paths = [volume.path for volume in self.volumes]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise ClusterError(f"--volume: {twice} is the path of two claims.")

    def _names(self) -> list[tuple[str, str]]:
        named = [
            ("--namespace", self.namespace),
            ("--keys-secret", self.keys_secret),
            ("--signing-secret", self.signing_secret),
            ("--tls-secret", self.tls_secret),
            ("--token-secret", self.token_secret),
            *(("--env-secret", name) for name in self.env_secrets),
        ]
        return [(option, name) for option, name in named if name is not None]


def parse_node_selector(texts: Sequence[str]) -> dict[str, str]:
    """Reads labels of nodes, `KEY=VALUE` each.

    Raises:
        ClusterError: One is none.
    """
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise ClusterError(f"--node-selector {text}: it must be a label of nodes, KEY=VALUE.")
        labels[key] = value
    return labels
