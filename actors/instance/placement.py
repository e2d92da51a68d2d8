"""Where an instance lives: what it reserves in Ray, and whether the cluster has that.

An instance is one actor that holds all its GPUs, on one node: its engine spreads over them with processes of its own.
Its deployment's replica and the actor share one placement group of one bundle, so Serve places, moves and counts them
as one. An instance over several nodes has a bundle on each: the replica and the actor are in the first, and a follower
(`actors.instance.followers`) in each of the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.settings import ACCELERATOR

Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one instance reserves in Ray.

    Attributes:
        gpus: GPUs on each of its nodes; a fraction is a share of one.
        cpus: CPUs on each of them.
        resources: Custom resources on each of them.
        nnodes: Its nodes.
    """

    gpus: float = 0
    cpus: float = 1.0
    resources: Resources = field(default_factory=dict)
    nnodes: int = 1

    def bundle(self, replica_cpus: float = 0.0) -> dict[str, float]:
        """What it reserves on a node: itself, and the replica that looks after it."""
        named = {"CPU": self.cpus + replica_cpus, "GPU": self.gpus, **self.resources}
        return {name: amount for name, amount in named.items() if amount}

    @property
    def group(self) -> dict[str, Any]:
        """Its placement group, as Serve takes it. Ray knows no empty bundle: what reserves nothing has no group."""
        bundle = self.bundle()
        if not bundle:
            return {}
        strategy = "STRICT_PACK" if self.nnodes == 1 else "STRICT_SPREAD"
        return {"placement_group_bundles": [bundle] * self.nnodes, "placement_group_strategy": strategy}


def actor_options(
    instance: Footprint, runtime_env: Mapping[str, Any] | None = None, *, node_rank: int = 0
) -> dict[str, Any]:
    """Ray's options for the actor of one of an instance's nodes; made inside a placement group, it lives in there."""
    options: dict[str, Any] = {
        "num_gpus": instance.gpus,
        "num_cpus": instance.cpus,
        "resources": dict(instance.resources),
    }
    if runtime_env:
        options["runtime_env"] = dict(runtime_env)
    group = get_current_placement_group()
    if group is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            placement_group=group,
            placement_group_bundle_index=node_rank,
            # What an engine starts through Ray stays on the GPUs that were reserved for it.
            placement_group_capture_child_tasks=True,
        )
    return options


def missing(bundle: Resources, instances: int, nodes: Sequence[Resources], nnodes: int = 1) -> str | None:
    """What the cluster lacks to hold so many instances, in words for a person; None when it lacks nothing.

    It looks at what nodes have in all, not at what is free now, so it says what can never work, not what must wait.

    Args:
        bundle: What one instance reserves on each of its nodes.
        instances: How many.
        nodes: What each node of the cluster has.
        nnodes: Nodes of one instance.
    """
    for name, amount in bundle.items():
        if name.startswith(ACCELERATOR) and not any(node.get(name) for node in nodes):
            kinds = sorted(
                {key.removeprefix(ACCELERATOR) for node in nodes for key in node if key.startswith(ACCELERATOR)}
            )
            return (
                f"one instance needs a node with an accelerator of type {name.removeprefix(ACCELERATOR)}, "
                f"and the nodes have {', '.join(kinds) if kinds else 'none that Ray knows'}"
            )
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            return (
                f"one instance needs {words(name, amount)} on one node, "
                f"and the largest node has {words(name, most) if most else 'none'}"
            )
    fitting = room(bundle, nodes, nnodes)
    needs = ", ".join(words(name, amount) for name, amount in bundle.items())
    able = nodes_with_room(bundle, nodes)
    if able == 0:
        return f"no node has all of what one instance needs: {needs}"
    if fitting == 0:
        there = "only 1 has" if able == 1 else f"only {able} have"
        return f"one instance takes {nnodes} nodes, and {there} what it needs on each: {needs}"
    if fitting < instances:
        each = f"{needs} each" if nnodes == 1 else f"{needs} on each of {nnodes} nodes"
        return f"the cluster has room for {fitting} of {instances} instances ({each})"
    return None


def room(bundle: Resources, nodes: Sequence[Resources], nnodes: int = 1) -> int:
    """How many instances the nodes can hold, when they hold nothing else; each takes a bundle of so many nodes."""
    fits = [_fits(bundle, node) for node in nodes]
    most = sum(fits) // nnodes
    # A node has no two bundles of one instance: of what it can hold, no more than there are instances counts.
    while most and sum(min(places, most) for places in fits) < most * nnodes:
        most -= 1
    return most


def nodes_with_room(bundle: Resources, nodes: Sequence[Resources]) -> int:
    """How many of the nodes can hold the bundle, when they hold nothing else."""
    return sum(_fits(bundle, node) > 0 for node in nodes)


def _fits(bundle: Resources, node: Resources) -> int:
    """How many bundles a node can hold, when it holds nothing else."""
    return min((_places(name, amount, node.get(name, 0.0)) for name, amount in bundle.items()), default=1_000_000)


def _places(name: str, amount: float, there: float) -> int:
    # Ray counts in ten-thousandths, so a hair of floating point must not cost a place.
    if name == "GPU" and amount < 1:
        # A share is of one GPU: what is left of two does not add up.
        return int(there) * int((1 + 1e-6) // amount)
    return int((there + 1e-6) // amount)


def words(name: str, amount: float) -> str:
    """An amount of a resource, for a person."""
    unit = {"CPU": "CPU", "GPU": "GPU"}.get(name)
    number = f"{amount:g}"
    if name.startswith(ACCELERATOR):
        return f"type {name.removeprefix(ACCELERATOR)}"
    if unit is None:
        return f"{number} of the resource {name!r}"
    return f"{number} {unit}" if amount == 1 else f"{number} {unit}s"
