"""Whether a Ray cluster has room for a fleet, and how a small machine makes room for it."""

import math
from collections.abc import Sequence

from actors.instance.placement import Resources, missing, nodes_with_room, room, words
from deployments.fleet_settings import FleetSettings
from deployments.instance_footprint import footprint_of
from deployments.instance_gpus import needs_nodes
from deployments.model_settings import ModelSettings
from engines.registry import options_type


def missing_resources(fleet: FleetSettings, nodes: Sequence[Resources]) -> str:
    """Says what a cluster of these nodes lacks for the fleet; empty when it lacks nothing.

    Of a model whose instances follow its load it has room for the least, and for one in any case.
    """
    lacks = []
    routers = fleet.router.least_replicas
    wanted = {name: amount * routers for name, amount in fleet.router.needs.items()}
    if router_lack := missing_for_routers(fleet, nodes):
        lacks.append(f"router: {router_lack}")
    for model in fleet.deployed:
        bundle = footprint_of(model, nodes).bundle()
        instances = max(1, model.least_replicas)
        if lack := missing(bundle, instances, nodes, model.nnodes):
            lacks.append(f"{model.name}: {lack}")
        for name, amount in bundle.items():
            wanted[name] = wanted.get(name, 0.0) + amount * instances * model.nnodes
    if not lacks:  # Each model fits; do all of them together?
        for name, amount in wanted.items():
            there = sum(node.get(name, 0.0) for node in nodes)
            if amount > there + 1e-6:
                lacks.append(f"the fleet needs {words(name, amount)}, and the cluster has {words(name, there)}")
    return "; ".join(lacks)


def missing_for_routers(fleet: FleetSettings, nodes: Sequence[Resources]) -> str:
    """Says what a cluster of these nodes lacks for the router replicas alone; empty when it lacks nothing."""
    needs, routers = fleet.router.needs, fleet.router.least_replicas
    fitting = nodes_with_room(needs, nodes)
    each = ", ".join(words(name, amount) for name, amount in needs.items())
    if fitting == 0:
        return f"no node has what one replica needs ({each})"
    if fleet.router.per_node and fitting < routers:
        nodes_there = "1 node has" if fitting == 1 else f"{fitting} nodes have"
        return f"per_node puts {routers} replicas on as many nodes, and only {nodes_there} room for one ({each})"
    return ""


def room_of(fleet: FleetSettings, nodes: Sequence[Resources]) -> list[str]:
    """What a cluster of these nodes can hold of each model, if it holds nothing else; a line each, for a person."""
    lines = []
    if fleet.router.per_node:
        lines.append(f"router: room for one on each of {nodes_with_room(fleet.router.needs, nodes)} nodes")
    for model in fleet.deployed:
        bundle = footprint_of(model, nodes).bundle()
        fitting = room(bundle, nodes, model.nnodes)
        some = "all" if fitting >= model.most_replicas else str(fitting)
        lines.append(f"{model.name}: room for {some} of {model.replicas}")
    return lines


def share_gpus(fleet: FleetSettings, gpus: int) -> FleetSettings:
    """Lets instances share the GPUs of one machine that has too few of them for each to have its own.

    Only instances that left the question open, and that hold their model on one GPU.
    """
    sharing = [model for model in fleet.deployed if needs_nodes(model)]
    instances = sum(model.most_replicas for model in sharing)
    if gpus == 0 or instances <= gpus or any(model.world_size > 1 for model in sharing):
        return fleet
    if any(model.gpus for model in fleet.deployed):
        return fleet
    share = math.floor(10_000 / math.ceil(instances / gpus)) / 10_000
    return fleet.model_copy(
        update={
            "models": [
                _with_share(model, share) if isinstance(model, ModelSettings) and model in sharing else model
                for model in fleet.models
            ]
        }
    )


def _with_share(model: ModelSettings, share: float) -> ModelSettings:
    options = {**options_type(model.engine).on_gpu_share(share), **model.options}
    return model.model_copy(update={"gpus": share, "options": options})
