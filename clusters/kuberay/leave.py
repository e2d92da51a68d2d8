"""A pod that is to go leaves its Ray cluster first: `python -m clusters.kuberay.leave SECONDS`, its `preStop` hook.

Ray is told that the node goes away. Serve then makes a successor of each replica elsewhere, and ends it in order; a
node that has nothing left ends by itself.
"""

import os
import sys
import time
from typing import Any

from actors.ray_private import find
from clusters.errors import ClusterError, first_line

_POLL_S = 1.0
_CAN_DRAIN = find(
    "a node",
    (
        "ray._raylet:GcsClient",
        "ray._raylet:InnerGcsClient.drain_node",
        "ray._raylet:InnerGcsClient.get_all_node_info",
        "ray.core.generated.autoscaler_pb2:DrainNodeReason",
        "ray.core.generated.gcs_pb2:GcsNodeInfo.ALIVE",
    ),
    "ends without having handed anything over",
)


def leave(address: str, node_address: str, within_s: float) -> None:
    """Announces the end of a node, and returns once it has ended, or its time is up.

    Args:
        address: Of the cluster's control service: HOST:PORT.
        node_address: The node's IP address.
        within_s: What it gets.

    Raises:
        ClusterError: The cluster does not answer, knows no such node, or does not let it go; or Ray cannot be asked.
    """
    if not _CAN_DRAIN:
        raise ClusterError("This version of Ray cannot be told that a node goes.")
    from ray._raylet import GcsClient  # type: ignore[import-not-found, attr-defined, unused-ignore]
    from ray.core.generated import autoscaler_pb2
    from ray.exceptions import RpcError

    end_s = time.monotonic() + within_s
    try:
        control = GcsClient(address=address)
        node = _living(control, node_address)
        if node is None:
            raise ClusterError(f"The cluster at {address} has no node with the address {node_address}.")
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = round((time.time() + within_s) * 1000)
        accepted, why_not = control.drain_node(node, reason, "its pod ends", deadline_ms)
        if not accepted:
            raise ClusterError(f"Ray does not let the node go: {why_not}")
        while _living(control, node_address) == node and time.monotonic() < end_s:
            time.sleep(_POLL_S)
    except (RpcError, ConnectionError) as error:
        raise ClusterError(f"The cluster at {address} does not answer: {first_line(error)}") from error


def _living(control: Any, node_address: str) -> str | None:
    """The id of the living node with this address."""
    from ray.core.generated import gcs_pb2

    for node, info in control.get_all_node_info(timeout=10).items():
        if info.node_manager_address == node_address and info.state == gcs_pb2.GcsNodeInfo.ALIVE:
            return str(node.hex())
    return None


def main() -> None:
    """Entry point."""
    try:
        leave(os.environ["RAY_ADDRESS"], os.environ["POD_IP"], float(sys.argv[1]))
    except ClusterError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
