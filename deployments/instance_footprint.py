"""What one instance of a model reserves in Ray."""

from collections.abc import Sequence

from actors.instance.placement import Footprint, Resources
from deployments.instance_gpus import gpus_of
from deployments.model_settings import ModelSettings


def footprint_of(model: ModelSettings, nodes: Sequence[Resources]) -> Footprint:
    """What one instance of the model reserves on a cluster of these nodes."""
    gpus = gpus_of(model, has_gpus=any(node.get("GPU", 0) for node in nodes))
    return Footprint(gpus / model.nnodes, model.cpus, model.custom_resources, model.nnodes)
