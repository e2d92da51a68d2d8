"""The pods of a fleet: the head, the routers, and the instances of each model."""

import math
from collections.abc import Mapping
from typing import Any

from clusters.kuberay.fleet_in_pods import KEYS, ROUTERS, SIGNING, TLS, FleetInPods, InstanceGroup
from clusters.kuberay.options import KubeRayOptions
from deployments import router_deployment
from engines.registry import parse_options

FLEET_LABEL, GROUP_LABEL = "penstock/fleet", "penstock/group"
"""Labels of our own: KubeRay's name the cluster, and an upgrade makes another one."""
HEAD = "head"
SERVE_PORT = "serve"
"""Name of the routers' port. Only their pods have one of that name, so that the Service leads to no other."""
_ROUTER_CPUS = 1.0
"""One event loop keeps one busy."""
_RAY_CPUS = 0.5
_HEAD_CPUS = 2.0
_ENDING_S = 30
"""What Ray and Kubernetes may take after a pod has drained."""
_USER = 1000
"""Of the images of Ray, and of our Dockerfile."""
_AGENT_PORT = 52365
_GIB = 2**30
_GIB_PER_GPU = 16
_GIB_BESIDES = 2


def head_group(pods: FleetInPods, options: KubeRayOptions) -> dict[str, Any]:
    """The head: Ray's control service and Serve's controller, and no work."""
    ports = {"gcs-server": 6379, "dashboard": 8265, "metrics": 8080}
    container = _container("ray-head", options, _HEAD_CPUS, options.head_memory, ports)
    # Serve's controller imports the fleet, so what its environment names must be there, too.
    spec = _spec(container, options, is_head=True)
    return {
        "rayStartParams": {"num-cpus": "0"},
        "template": {"metadata": {"labels": _labels(pods.name, HEAD)}, "spec": spec},
    }


def router_group(pods: FleetInPods, options: KubeRayOptions) -> dict[str, Any]:
    """The pods that take traffic, each with one router replica."""
    fleet = pods.fleet
    ports = {SERVE_PORT: fleet.http.port}
    if fleet.http.operators is not None:
        ports["operators"] = fleet.http.operators.port
    cpus = max(_ROUTER_CPUS, fleet.router.cpus) + _RAY_CPUS
    container = _container("ray-worker", options, cpus, options.router_memory, ports)
    container["readinessProbe"] = {
        **_router_probe(pods),
        "periodSeconds": 2,
        "timeoutSeconds": 2,
        "failureThreshold": 2,
    }
    spec = _spec(container, options)
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": _labels(pods.name, ROUTERS)},
        }
    ]
    _mount_secrets(spec, pods, options)
    _drain(spec, router_deployment.shutdown_timeout_s(fleet), options)
    # An upgrade makes each router's successor before the router ends.
    return _group(
        ROUTERS, pods.name, fleet.router.least_replicas, 2 * fleet.router.most_replicas, fleet.router.needs, spec
    )


def instance_group(group: InstanceGroup, pods: FleetInPods, options: KubeRayOptions) -> dict[str, Any]:
    """The pods of a model's instances."""
    container = _container("ray-worker", options, group.cpus, options.memory or _memory(group), {})
    # Ready as soon as Ray runs: what takes traffic are the routers, and a budget of disruptions counts ready pods only.
    container["readinessProbe"] = {
        "httpGet": {"path": "/api/healthz", "port": _AGENT_PORT},
        "periodSeconds": 5,
        "timeoutSeconds": 5,
        "failureThreshold": 10,
    }
    spec = _spec(container, options)
    if group.gpus:
        for bound in ("requests", "limits"):
            container["resources"][bound][options.gpu_resource] = str(group.gpus)
        # As nodes with GPUs are set aside by custom.
        spec["tolerations"] = [{"key": options.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    if options.node_selector:
        spec["nodeSelector"] = dict(options.node_selector)
    _drain(spec, group.drain_s, options)
    return _group(group.name, pods.name, group.least, group.most, group.resources, spec)


def disruption_budgets(pods: FleetInPods, options: KubeRayOptions) -> list[dict[str, Any]]:
    """What Kubernetes may take away at a time: one pod of each group that has several, and no head without a Redis."""
    least = {ROUTERS: pods.fleet.router.least_replicas, **{group.name: group.least for group in pods.groups}}
    # A budget of all pods of a group would never let its nodes go.
    available = {group: count - 1 for group, count in least.items() if count > 1}
    if options.redis is None:
        available[HEAD] = 1
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(f"{pods.name}-{group}", options, _labels(pods.name, group)),
            "spec": {
                # KubeRay's pods belong to no controller that has a scale, for which alone `maxUnavailable` is.
                "minAvailable": count,
                "selector": {"matchLabels": _labels(pods.name, group)},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }
        for group, count in available.items()
    ]


def metadata(name: str, options: KubeRayOptions, labels: dict[str, str]) -> dict[str, Any]:
    """The metadata of an object."""
    return {"name": name, **({"namespace": options.namespace} if options.namespace else {}), "labels": labels}


def _labels(fleet: str, group: str) -> dict[str, str]:
    return {FLEET_LABEL: fleet, GROUP_LABEL: group}


def _group(
    name: str, fleet: str, least: int, most: int, resources: Mapping[str, float], spec: dict[str, Any]
) -> dict[str, Any]:
    return {
        "groupName": name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": {},
        # Whole numbers: Ray's autoscaler rounds up what a pod has, and a pod must have what it believes.
        "resources": {
            resource: str(math.ceil(amount)) for resource, amount in resources.items() if amount or resource == "CPU"
        },
        "template": {"metadata": {"labels": _labels(fleet, name)}, "spec": spec},
    }


def _container(name: str, options: KubeRayOptions, cpus: float, memory: str, ports: dict[str, int]) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": options.image,
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        # No limit of CPUs: it would hold up the one loop that carries every stream.
        "resources": {
            "requests": {"cpu": f"{round(cpus * 1000)}m", "memory": memory},
            "limits": {"memory": memory},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if options.env_secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in options.env_secrets]
    if ports:
        container["ports"] = [{"name": port, "containerPort": number} for port, number in ports.items()]
    return container


def _spec(container: dict[str, Any], options: KubeRayOptions, *, is_head: bool = False) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "restartPolicy": "Never",  # Ray's autoscaler (v2) makes a new pod instead.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "fsGroup": _USER,
            # Weights are large: no walk through all of their files at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if not is_head:  # Whose autoscaler asks Kubernetes for pods.
        spec["automountServiceAccountToken"] = False
    for position, volume in enumerate(() if is_head else options.volumes):
        name = f"claim-{position}"
        claim = {"claimName": volume.claim, "readOnly": volume.is_read_only}
        _mount(spec, name, {"persistentVolumeClaim": claim}, str(volume.path), is_read_only=volume.is_read_only)
    return spec


def _mount_secrets(spec: dict[str, Any], pods: FleetInPods, options: KubeRayOptions) -> None:
    for name, secret, folder in (
        ("keys", options.keys_secret, KEYS.parent),
        ("signing", options.signing_secret, SIGNING.parent),
        ("tls", options.tls_secret, TLS),
    ):
        if secret is not None:
            # Whole folders: what is mounted file by file does not change when the Secret does.
            _mount(spec, name, {"secret": {"secretName": secret, "defaultMode": 0o440}}, str(folder), is_read_only=True)


def _mount(spec: dict[str, Any], name: str, source: dict[str, Any], path: str, *, is_read_only: bool) -> None:
    spec.setdefault("volumes", []).append({"name": name, **source})
    mount = {"name": name, "mountPath": path, **({"readOnly": True} if is_read_only else {})}
    spec["containers"][0].setdefault("volumeMounts", []).append(mount)


def _drain(spec: dict[str, Any], drain_s: float, options: KubeRayOptions) -> None:
    """Lets a pod that is to go hand over what it has, and gives it the time to."""
    within_s = options.notice_s + math.ceil(drain_s)
    command = ["python", "-m", "clusters.kuberay.leave", str(within_s)]
    spec["containers"][0]["lifecycle"] = {"preStop": {"exec": {"command": command}}}
    spec["terminationGracePeriodSeconds"] = within_s + _ENDING_S


def _router_probe(pods: FleetInPods) -> dict[str, Any]:
    http = pods.fleet.http
    if http.tls is not None and http.tls.client_ca is not None:
        # The kubelet has no certificate to show.
        return {"tcpSocket": {"port": SERVE_PORT}}
    return {
        "httpGet": {
            "path": "/ready",
            "port": SERVE_PORT,
            "scheme": "HTTP" if http.tls is None else "HTTPS",
            # One that every fleet answers to, whatever `http.hosts` says.
            "httpHeaders": [{"name": "Host", "value": "localhost"}],
        }
    }


def _memory(group: InstanceGroup) -> str:
    if group.gpus:
        return f"{_GIB_PER_GPU * group.gpus}Gi"
    options = parse_options(group.model.spec())
    needed = group.per_pod * options.memory_bytes(group.model.world_size // group.model.nnodes)
    return f"{math.ceil(needed / _GIB) + _GIB_BESIDES}Gi"
