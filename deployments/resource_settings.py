"""What a fleet file may ask of Ray besides CPUs and GPUs: resources that somebody gave to nodes, and accelerators."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from actors.settings import ACCELERATOR

ACCELERATOR_SHARE = 0.001
"""What Ray itself asks of it for an actor of that kind: it is there to be found, and not to be used up."""
_OWN_SETTINGS = {"CPU": "cpus", "GPU": "gpus"}
_RAYS_OWN = ("node:", "memory", "object_store_memory", "bundle", ACCELERATOR)
_SMALLEST = 1e-4
_LONGEST = 100
_MOST = 1e6


def _check_resources(resources: dict[str, float]) -> dict[str, float]:
    """The resources, if nodes can have them and Ray takes the amounts.

    Raises:
        ValueError: They cannot, or it does not.
    """
    for name, amount in resources.items():
        if name in _OWN_SETTINGS:
            raise ValueError(f"{name} has a setting of its own: {_OWN_SETTINGS[name]}")
        if name.startswith(ACCELERATOR):
            raise ValueError(f"{name}: give `accelerator_type: {name.removeprefix(ACCELERATOR)}` instead")
        if not name.strip() or len(name) > _LONGEST or name.startswith(_RAYS_OWN):
            raise ValueError(f"{name[:_LONGEST]!r} is no custom resource; its name is up to whoever starts the nodes")
        if not _SMALLEST <= amount <= _MOST:
            raise ValueError(f"{name} must be from {_SMALLEST:g} to {_MOST:g}, not {amount:g}")
        if amount > 1 and not amount.is_integer():
            raise ValueError(f"{name} must be whole, or a share of one, not {amount:g}")
    return resources


CustomResources = Annotated[dict[str, float], AfterValidator(_check_resources)]
"""Amounts of custom resources, by their names."""
AcceleratorType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""A kind of accelerator, as Ray names it."""
