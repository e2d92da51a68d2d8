"""What one instance of a model reserves in Ray."""

from collections.abc import Sequence

from actors.instance.placement import Footprint, Resources, footprint
from deployments.model_settings import ModelSettings
from engines.registry import engine_kind


def needs_nodes(model: ModelSettings) -> bool:
    """Whether that depends on the cluster: its GPUs are left open, and its engine has a use for some."""
    return model.gpus is None and engine_kind(model.engine).uses_gpus


def footprint_of(model: ModelSettings, nodes: Sequence[Resources]) -> Footprint:
    """What one instance of the model reserves on a cluster of these nodes."""
    return footprint(
        gpus=model.gpus,
        cpus=model.cpus,
        resources=model.custom_resources,
        world_size=model.world_size,
        nnodes=model.nnodes,
        engine_uses_gpus=engine_kind(model.engine).uses_gpus,
        nodes=nodes,
    )
