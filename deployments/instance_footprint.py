"""What one instance of a model reserves in Ray."""

from collections.abc import Sequence

from actors.instance.placement import Footprint, Resources
from deployments.model_settings import ModelSettings
from engines.registry import engine_kind


def needs_nodes(model: ModelSettings) -> bool:
    """Whether that depends on the cluster: its GPUs are left open, and its engine has a use for some."""
    return model.gpus is None and engine_kind(model.engine).uses_gpus


def gpus_of(model: ModelSettings, *, has_gpus: bool) -> float:
    """GPUs of one instance, on all its nodes together; where they are left open, one for each rank, or none.

    Args:
        model: The model.
        has_gpus: Whether there are any where it is to run.
    """
    if model.gpus is not None:
        return model.gpus
    return float(model.world_size) if has_gpus and needs_nodes(model) else 0.0


def footprint_of(model: ModelSettings, nodes: Sequence[Resources]) -> Footprint:
    """What one instance of the model reserves on a cluster of these nodes."""
    gpus = gpus_of(model, has_gpus=any(node.get("GPU", 0) for node in nodes))
    return Footprint(gpus / model.nnodes, model.cpus, model.custom_resources, model.nnodes)
