"""Joining a Ray cluster that runs already."""

import os

from clusters.errors import ClusterError, first_line
from deployments.ray_token import MODE

_VERSIONS = "Version mismatch"
"""How Ray begins what it says to a program of another version."""


def join(address: str, namespace: str) -> None:
    """Connects this process to the cluster.

    Raises:
        ClusterError: There is none, or it does not let us in.
    """
    import ray  # Slow to import, and it reads the environment.
    from ray.exceptions import AuthenticationError

    try:
        ray.init(address=address, namespace=namespace, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        if _VERSIONS in str(error):
            said = " ".join(str(error).split())
            raise ClusterError(f"The cluster at {address} has other versions than this machine: {said}") from error
        hint = "" if MODE in os.environ else f" If it asks for a token, set {MODE}=token."
        raise ClusterError(f"There is no Ray cluster at {address}: {first_line(error).rstrip('.')}.{hint}") from error
