"""Ray on loopback: what keeps the cluster of a local fleet off the network, and what lets a program join it there.

Ray listens on loopback only where its node's address is 127.0.0.1, and takes that for the address of a node only where
`RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER` is 0. Otherwise it replaces 127.0.0.1 with the machine's own address and listens on
every interface. A program that joins resolves addresses by the same rule, so it has to be told as well.
"""

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from deployments.ray_token import offer_token
from deployments.run_file import running_fleets

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_REPLICA = "ray.serve._private.replica"
_LISTEN = "add_port_to_grpc_server"


def prepare_to_join(address: str) -> None:
    """Prepares this process, and those that it starts, to join the Ray cluster at an address. Call it before Ray joins.

    A cluster of this machine is shown the user's token, and that of a local fleet is looked for on loopback. Ray reads
    the token's mode when it is imported: a token is shown only where this is called before.
    """
    offer_token(address)
    if any(fleet.ray_address == address for fleet in running_fleets()):
        os.environ[CLUSTER] = "0"
        constants: Any = sys.modules.get("ray._private.ray_constants")
        if constants is not None:  # Ray has read the environment by now.
            constants.ENABLE_RAY_CLUSTER = False


def keep_replica_on_loopback() -> None:
    """Lets the gRPC server of this Serve replica listen on loopback, where the node's address is that.

    Serve starts it on every interface once the constructor of the deployment has returned: call it in there.
    """
    import ray

    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    replica = import_module(_REPLICA)
    listen: Callable[[Any, str], int] | None = getattr(replica, _LISTEN, None)
    if listen is None:
        # It still asks for Ray's token.
        logger.warning(
            "Ray %s has moved %s.%s: a port of Serve is not on loopback.", ray.__version__, _REPLICA, _LISTEN
        )
        return

    def listen_on_loopback(server: Any, address: str) -> int:
        return listen(server, f"{LOOPBACK}:{address.rpartition(':')[2]}")

    setattr(replica, _LISTEN, listen_on_loopback)
