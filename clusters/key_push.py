"""Sends a file of keys to a running fleet, by way of its directory."""

import asyncio

import ray
from ray.exceptions import RayError

from actors.directory.client import DirectoryClient
from clusters.errors import ClusterError, first_line
from clusters.ray_cluster import join
from deployments.tenants.followed_keys import PUSHED


def push_keys(address: str, fleet: str, text: str) -> None:
    """Sends the file.

    Args:
        address: The Ray cluster's.
        fleet: The fleet's name.
        text: The file's content, which is right.

    Raises:
        ClusterError: There is no such cluster, or the fleet does not take it.
    """
    join(address, fleet)
    try:
        asyncio.run(DirectoryClient(fleet).keep(PUSHED, text.encode()))
    except (RayError, TimeoutError, ValueError) as error:
        raise ClusterError(f"The fleet {fleet!r} does not take the keys: {first_line(error)}") from error
    finally:
        ray.shutdown()
