"""`penstock build --kuberay`: a fleet as KubeRay's RayService, and the budgets of disruptions beside it."""

from importlib.metadata import version
from typing import Any

import yaml

from clusters.kuberay.fleet_in_pods import FleetInPods, fleet_in_pods
from clusters.kuberay.options import KubeRayOptions
from clusters.kuberay.pods import (
    FLEET_LABEL,
    SERVE_PORT,
    disruption_budgets,
    head_group,
    instance_group,
    metadata,
    router_group,
)
from clusters.serve_config import serve_config
from deployments.fleet_settings import FleetSettings

KUBERAY = "1.7.0"
"""The release of KubeRay that it is written for."""
_SWITCH_S = 60
"""What load balancers may take to notice that a Service leads elsewhere."""


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and repeats instead of pointing elsewhere."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def manifest(fleet: FleetSettings, options: KubeRayOptions) -> str:
    """The manifest as YAML, for `kubectl apply -f`.

    Raises:
        ClusterError: The fleet cannot run in pods as it is, or an option is missing; the message names it.
    """
    pods = fleet_in_pods(fleet, options)
    documents = [_ray_service(pods, options), *disruption_budgets(pods, options)]
    said = "".join(f"# {line}\n" for line in _comments(pods, options))
    return said + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120)


def _ray_service(pods: FleetInPods, options: KubeRayOptions) -> dict[str, Any]:
    port = {"name": SERVE_PORT, "port": pods.fleet.http.port, "targetPort": SERVE_PORT, "protocol": "TCP"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata(pods.name, options, {FLEET_LABEL: pods.name}),
        "spec": {
            "upgradeStrategy": {"type": options.upgrade},
            # The Service leads to the new cluster by then; what began on the old one ends there.
            "rayClusterDeletionDelaySeconds": options.longest_stream_s + _SWITCH_S,
            "excludeHeadPodFromServeSvc": True,
            # By the port's name: KubeRay's own leads to all pods that are ready, also to those without a router.
            "serveService": {
                "metadata": {"labels": {FLEET_LABEL: pods.name}},
                "spec": {"type": options.service_type, "ports": [port]},
            },
            "serveConfigV2": serve_config(pods.fleet),
            "rayClusterConfig": _ray_cluster(pods, options),
        },
    }


def _ray_cluster(pods: FleetInPods, options: KubeRayOptions) -> dict[str, Any]:
    token = {} if options.token_secret is None else {"secretName": options.token_secret}
    cluster: dict[str, Any] = {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token", **token},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2"},
    }
    if options.redis is not None:
        tolerance: dict[str, Any] = {"redisAddress": options.redis}
        if (password := options.redis_password) is not None:
            reference = {"secretKeyRef": {"name": password.secret, "key": password.key}}
            tolerance["redisPassword"] = {"valueFrom": reference}
        cluster["gcsFaultToleranceOptions"] = tolerance
    return cluster | {
        "headGroupSpec": head_group(pods, options),
        "workerGroupSpecs": [
            router_group(pods, options),
            *(instance_group(group, pods, options) for group in pods.groups),
        ],
    }


def _comments(pods: FleetInPods, options: KubeRayOptions) -> list[str]:
    """What a person should know who applies it: what must be there before, and what it cannot do."""
    needed = [
        *(("keys.yaml=FILE", secret) for secret in [options.keys_secret] if secret is not None),
        *(("secret=FILE", secret) for secret in [options.signing_secret] if secret is not None),
    ]
    before = [
        f"- the Secret {name}: kubectl create secret generic {name} --from-file={entry}" for entry, name in needed
    ]
    if (tls := options.tls_secret) is not None:
        before.append(f"- the Secret {tls}: kubectl create secret tls {tls} --cert=FILE --key=FILE")
    before += [
        f"- the Secret {name}: kubectl create secret generic {name} --from-literal=VARIABLE=VALUE"
        for name in options.env_secrets
    ]
    if (token := options.token_secret) is not None:
        before.append(f"- the Secret {token}: kubectl create secret generic {token} --from-literal=auth_token=TOKEN")
    if (password := options.redis_password) is not None:
        before.append(f"- the Secret {password.secret}, with the entry {password.key}")
    before += [f"- the PersistentVolumeClaim {volume.claim}, with the weights" for volume in options.volumes]
    lines = [f"Written by `penstock build --kuberay` {version('penstock')}, for KubeRay {KUBERAY}."]
    if before:
        lines += ["What must be there before it is applied:", *before]
    if options.redis is None:
        lines += [
            "Without --redis HOST:PORT the head is all that knows the cluster: when it dies, the fleet ends, and",
            "begins anew. Kubernetes is asked to leave it where it is, so draining its node waits for a person.",
        ]
    return lines
