"""Serve's private names that we use: looked for once, when this is imported.

For autoscaled fleets, for one router replica on a node, and for chaos.
"""

import uuid
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

_HAS_IMPLICIT = find("`router.per_node`", ("ray._raylet:IMPLICIT_RESOURCE_PREFIX",), "is refused")


def one_on_a_node() -> dict[str, float]:
    """Resources of which every node has enough for one actor: of those that ask for these, no two are on one node.

    Each call names others, so that an upgrade's replicas may stand beside those that they replace. With Serve's own
    `max_replicas_per_node` all versions of a deployment share one name: a successor would wait for its predecessor's
    end, which Serve lets happen once the successor is up.

    Raises:
        RuntimeError: Another version of Ray has it elsewhere.
    """
    if not _HAS_IMPLICIT:
        raise RuntimeError("This version of Ray keeps no two routers apart. Leave `router.per_node` out.")
    from ray._raylet import IMPLICIT_RESOURCE_PREFIX  # type: ignore[attr-defined, unused-ignore]

    return {f"{IMPLICIT_RESOURCE_PREFIX}penstock:{uuid.uuid4().hex}": 1.0}


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
