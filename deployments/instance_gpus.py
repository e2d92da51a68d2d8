"""How many GPUs one instance takes, where the fleet file says so and where it leaves that open.

Without Ray, which reads the environment when it is imported: commands ask this before they know a cluster's address.
"""

from deployments.model_settings import ModelSettings
from engines.registry import engine_kind


def needs_nodes(model: ModelSettings) -> bool:
    """Whether the cluster decides how many GPUs an instance takes."""
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
