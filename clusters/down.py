"""`penstock down`: ends a fleet from another terminal."""

import os
import signal
import time

from rich.console import Console

from clusters.errors import ClusterError
from clusters.ray_cluster import join
from deployments.run_file import RunFile

_POLL_S = 0.1


def end_local_fleet(fleet: RunFile, console: Console, timeout_s: float) -> None:
    """Asks the `penstock serve` of that fleet to end, and waits for it; it drains first.

    Raises:
        ClusterError: It has not ended in time.
    """
    console.print(f"Ending the fleet {fleet.name!r} on port {fleet.port}.", highlight=False)
    try:
        os.kill(fleet.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise ClusterError(f"The fleet on port {fleet.port} is another user's (process {fleet.pid}).") from None
    deadline = time.monotonic() + timeout_s
    while fleet.is_alive():
        if time.monotonic() > deadline:
            raise ClusterError(f"It still drains after {timeout_s:g} s. Wait, or end it at once: `kill {fleet.pid}`.")
        time.sleep(_POLL_S)


def remove_from_cluster(address: str, name: str) -> None:
    """Removes the application of a fleet from a Ray cluster.

    Raises:
        ClusterError: There is no such cluster, or no such fleet on it.
    """
    join(address, name)
    import ray  # Slow to import, and only this path needs it.
    from ray import serve

    try:
        applications = serve.status().applications
        if name not in applications:
            there = ", ".join(applications) or "none"
            raise ClusterError(f"There is no fleet {name!r} on {address}; applications there: {there}.")
        serve.delete(name)
    finally:
        ray.shutdown()
