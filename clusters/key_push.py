"""Sends a file of keys to a running fleet, by way of its directory."""

import asyncio

import ray
from ray.exceptions import RayError

from actors.directory.client import DirectoryClient
from clusters.errors import ClusterError, first_line
from deployments.tenants.followed_keys import PUSHED


def push_keys(fleet: str, text: str) -> None:
    """Sends the file; this process is connected to the fleet's cluster, and is not afterwards.

    Args:
        fleet: The fleet's name.
        text: The file's content, which is right.

    Raises:
        ClusterError: The fleet does not take it.
    """
    try:
        asyncio.run(DirectoryClient(fleet).keep(PUSHED, text.encode()))
    except (RayError, TimeoutError, ValueError) as error:
        raise ClusterError(f"The fleet {fleet!r} does not take the keys: {first_line(error)}") from error
    finally:
        ray.shutdown()
