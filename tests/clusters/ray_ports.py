"""The ports of a Ray cluster, by what listens there, and what they answer to others on its network.

`docs/security.md` has a table of the same kinds.
"""

import importlib
import pkgutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cache

import grpc  # type: ignore[import-untyped]
import ray.core.generated

CLIENT_SERVER, DASHBOARD, AGENT_HTTP, HTTP = 10001, 8265, 52365, 8000
GCS, NODE_MANAGER, OBJECT_MANAGER, AGENT_GRPC, RUNTIME_ENV, METRICS = 6379, 6380, 6381, 6383, 6384, 6385
AUTOSCALER_METRICS, DASHBOARD_METRICS = 44217, 44227
WORKERS = range(10002, 20000)
"""Ray's default."""
NODE_OPTIONS = {
    "node-manager-port": NODE_MANAGER,
    "object-manager-port": OBJECT_MANAGER,
    "dashboard-agent-grpc-port": AGENT_GRPC,
    "dashboard-agent-listen-port": AGENT_HTTP,
    "runtime-env-agent-port": RUNTIME_ENV,
    "metrics-export-port": METRICS,
    "min-worker-port": WORKERS.start,
    "max-worker-port": WORKERS.stop - 1,
}
"""Options of `ray start` on any node that give each port a number."""
HEAD_OPTIONS = {"port": GCS, "ray-client-server-port": CLIENT_SERVER, "dashboard-port": DASHBOARD}
OPEN_SERVICES = frozenset({"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"})
"""Services that Ray's servers in C++ answer to everybody: whether they live. The latter names no service of Ray's."""
_TIMEOUT_S = 30.0
_ANSWERED = "OK"


@dataclass(frozen=True, slots=True)
class GrpcPort:
    """A port that speaks gRPC.

    Attributes:
        method: One of its methods that does no harm, and which an empty request may call.
        reply: The status of that call with a token.
    """

    method: str
    reply: str = _ANSWERED


@dataclass(frozen=True, slots=True)
class HttpPort:
    """A port that speaks HTTP.

    Attributes:
        guarded: Paths that ask for the token.
        open: Paths that answer without.
    """

    guarded: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


KINDS: dict[str, GrpcPort | HttpPort] = {
    "GCS": GrpcPort("/ray.rpc.NodeInfoGcsService/CheckAlive"),
    "node manager": GrpcPort("/ray.rpc.NodeManagerService/GetSystemConfig"),
    "object manager": GrpcPort("/ray.rpc.ObjectManagerService/Pull"),
    "workers and drivers": GrpcPort("/ray.rpc.CoreWorkerService/NumPendingTasks"),
    "Serve replicas": GrpcPort("/ray.serve.ASGIService/HandleRequest", "UNKNOWN"),
    "Ray client": GrpcPort("/ray.rpc.RayletDriver/ClusterInfo", "NOT_FOUND"),
    "dashboard agent, gRPC": GrpcPort("/ray.rpc.ReporterService/HealthCheck"),
    "dashboard agent, HTTP": HttpPort(("/logs",), ("/api/local_raylet_healthz",)),
    "dashboard": HttpPort(("/api/version", "/api/jobs/", "/nodes?view=summary"), ("/", "/api/authentication_mode")),
    "runtime environment agent": HttpPort(("/get_or_create_runtime_env",)),
    "metrics of a node": HttpPort(open=("/metrics",)),
    "metrics of the dashboard": HttpPort(open=("/metrics",)),
    "metrics of the autoscaler": HttpPort(open=("/metrics",)),
    "Penstock": HttpPort(("/v1/models", "/metrics", "/-/routes"), ("/live", "/ready")),
}
_BY_PORT = {
    GCS: "GCS",
    NODE_MANAGER: "node manager",
    OBJECT_MANAGER: "object manager",
    CLIENT_SERVER: "Ray client",
    AGENT_GRPC: "dashboard agent, gRPC",
    AGENT_HTTP: "dashboard agent, HTTP",
    DASHBOARD: "dashboard",
    RUNTIME_ENV: "runtime environment agent",
    METRICS: "metrics of a node",
    DASHBOARD_METRICS: "metrics of the dashboard",
    AUTOSCALER_METRICS: "metrics of the autoscaler",
    HTTP: "Penstock",
}


def kind(process: str, port: int) -> str | None:
    """What kind of port this is, of a process with that name; None: of none that is known."""
    if port in WORKERS:
        return "workers and drivers"
    # Serve lets the kernel choose the port.
    return _BY_PORT.get(port) or ("Serve replicas" if process.startswith("ray::ServeReplica") else None)


class Neighbour:
    """Somebody on the cluster's network.

    Args:
        address: Of the node that is asked.
        credentials: What it shows where the node speaks TLS; None: it speaks plain text.
    """

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._address = address
        self._credentials = credentials
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, port: int, methods: list[str], token: str | None = None) -> dict[str, str]:
        """Calls each method with an empty request; the names of the statuses that came back."""
        target, options = f"{self._address}:{port}", [("grpc.enable_http_proxy", 0)]
        channel = (
            grpc.insecure_channel(target, options)
            if self._credentials is None
            else grpc.secure_channel(target, self._credentials, options)
        )
        metadata = [] if token is None else [("authorization", f"Bearer {token}")]
        found = {}
        with channel:
            for method in methods:
                try:
                    channel.unary_unary(method)(b"", metadata=metadata, timeout=_TIMEOUT_S)
                    found[method] = _ANSWERED
                except grpc.RpcError as error:
                    found[method] = error.code().name
        return found

    def get(self, port: int, path: str, token: str | None = None) -> int:
        """The status that an HTTP request gets."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"http://{self._address}:{port}{path}", headers=headers)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@cache
def all_methods() -> list[str]:
    """Every gRPC method that Ray's Python package knows, and some that only its servers in C++ do."""
    modules = [
        importlib.import_module(f"ray.core.generated.{module.name}")
        for module in pkgutil.iter_modules(ray.core.generated.__path__)
        if module.name.endswith("_pb2")
    ]
    modules.append(importlib.import_module("ray.serve.generated.serve_pb2"))
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return [
        *(f"/{service.full_name}/{method.name}" for service in services for method in service.methods),
        "/ray.rpc.ObjectManagerService/Push",
        "/ray.rpc.ObjectManagerService/Pull",
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ]
