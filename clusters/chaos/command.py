"""`penstock chaos`: joins a fleet's Ray cluster, and does it harm."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from rich.console import Console

from clusters.api_client import ApiClient
from clusters.chaos.counting import Arrivals
from clusters.chaos.faults import FAULTS, Fault
from clusters.chaos.run import ChaosPlan, run_chaos
from clusters.errors import ClusterError
from clusters.ray_cluster import join


@dataclass(frozen=True, slots=True)
class Where:
    """A fleet.

    Attributes:
        url: Where it answers.
        name: Its name.
        ray_address: Its Ray cluster.
    """

    url: str
    name: str
    ray_address: str


def chaos_command(
    where: Where,
    console: Console,
    *,
    names: Sequence[str],
    model: str | None,
    arrivals: Arrivals,
    length: int,
    times: int,
    recovery_s: float,
) -> int:
    """Runs the faults of these names, or all that a fleet outlives by itself; 0 when no client saw anything of them.

    Raises:
        ClusterError: There is no such fault, fleet or cluster.
    """
    served = ApiClient(where.url).models()
    if model is None and not served:
        raise ClusterError("The fleet serves no model.")
    plan = ChaosPlan(
        url=where.url,
        fleet=where.name,
        model=model or served[0],
        faults=_faults(names),
        arrivals=arrivals,
        length=length,
        times=times,
        recovery_s=recovery_s,
    )
    # What Serve says of an upgrade is not what the table is about.
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    join(where.ray_address, where.name)
    try:
        outcomes = asyncio.run(run_chaos(plan, console))
    finally:
        ray.shutdown()
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


def _faults(names: Sequence[str]) -> list[Fault]:
    known = {fault.name: fault for fault in FAULTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ClusterError(f"There is no fault {unknown[0]!r}. There are: {', '.join(known)}.")
    return [known[name] for name in names] or [fault for fault in FAULTS if not fault.lasts]
