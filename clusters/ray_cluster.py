"""Joining a Ray cluster that runs already, with the token that it may ask for."""

import os
import socket
from pathlib import Path

from clusters.errors import ClusterError, first_line

_MODE = "RAY_AUTH_MODE"


def offer_token(address: str) -> None:
    """Lets this process, and those that it starts, show the user's token to a cluster of this machine.

    Ray does so by itself only where no address is given. It reads the environment when it is imported: call this
    before. A cluster elsewhere must be meant (`RAY_AUTH_MODE=token`): whoever runs it gets to see the token.
    """
    if _MODE not in os.environ and _is_here(address) and _has_token():
        os.environ[_MODE] = "token"


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
        hint = "" if _MODE in os.environ else f" If it asks for a token, set {_MODE}=token."
        raise ClusterError(f"There is no Ray cluster at {address}: {first_line(error).rstrip('.')}.{hint}") from error


def _is_here(address: str) -> bool:
    """Whether the address is one of this machine."""
    try:
        with socket.socket() as probe:
            probe.bind((address.rpartition(":")[0], 0))
    except OSError:
        return False
    return True


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return (Path.home() / ".ray" / "auth_token").is_file()
