"""Serve's private names that we use, for autoscaled fleets and for chaos: looked for once, when this is imported."""

from typing import Any

from actors.ray_private import find

CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")
"""The name of Serve's controller as an actor, and its Ray namespace."""
_CLIENT = "ray.serve._private.client:ServeControllerClient"

_TAKES_CONFIGS = find(
    "autoscaled fleets",
    ("ray.serve.context:_get_global_client", f"{_CLIENT}.deploy_apps", f"{_CLIENT}.get_serve_details"),
    "need `autoscaler: routers`",
)
_HAS_IDS = find("`autoscaler: routers`", ("ray.serve._private.common:DeploymentID",), "sets no number of replicas")


def config_client() -> Any:
    """Serve's own client, which takes configs as `serve deploy` brings them.

    Raises:
        RuntimeError: Another version of Ray has it elsewhere.
    """
    if not _TAKES_CONFIGS:
        raise RuntimeError("This version of Ray Serve takes no config from a program. Set `autoscaler: routers`.")
    from ray.serve.context import _get_global_client

    return _get_global_client()


def deployment_id(name: str, application: str) -> Any:
    """A deployment as Serve's controller takes it.

    Raises:
        RuntimeError: Another version of Ray has it elsewhere.
    """
    if not _HAS_IDS:
        raise RuntimeError("This version of Ray Serve takes no number of replicas from a program.")
    from ray.serve._private.common import DeploymentID

    return DeploymentID(name=name, app_name=application)
