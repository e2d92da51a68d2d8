"""The fleet from a plain program, in one line: `deployments.connect()`."""

import os
import sys
from typing import TYPE_CHECKING

from deployments.loopback_ray import prepare_to_join
from deployments.ray_token import MODE
from deployments.run_file import FleetNotFound, find_fleet

if TYPE_CHECKING:
    from deployments.handle import FleetHandle


def connect(fleet: str | None = None, *, address: str | None = None, port: int | None = None) -> "FleetHandle":
    """The fleet as one engine; this process joins its Ray cluster, unless it is in one already.

    `CompletionClient(connect()).model("llama")` is a model's handle.

    Args:
        fleet: Its name; None: the local fleet's, or `penstock`.
        address: Its Ray cluster (`HOST:6379`); None: the one that this process is in, that of `RAY_ADDRESS`, or that of
            the fleet that `penstock serve` runs on this machine.
        port: The HTTP port of the local fleet, where several run.

    Raises:
        FleetNotFound: No local fleet runs, several do, or its cluster does not let us in.
    """
    if address is None and not _is_in_cluster() and not os.environ.get("RAY_ADDRESS"):
        local = find_fleet(port)
        address, fleet = local.ray_address, fleet or local.name
    if address is not None:
        prepare_to_join(address)  # before Ray is imported, which reads it then

    import ray
    from ray.exceptions import AuthenticationError

    from deployments.handle import FleetHandle

    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, AuthenticationError) as error:
            where = address or os.environ.get("RAY_ADDRESS")
            hint = f"If it asks for a token, call connect() before ray is imported, or set {MODE}=token."
            raise FleetNotFound(f"The Ray cluster at {where} cannot be joined. {hint}") from error
    return FleetHandle(fleet or "penstock")


def _is_in_cluster() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
