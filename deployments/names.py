"""Names that Ray and Serve take, out of names of models."""

import re
from collections.abc import Iterable, Sequence

from deployments.model_settings import ModelSettings

ROUTER = "router"
"""Name of the router deployment."""
_OTHERS = re.compile(r"[^A-Za-z0-9._]+")


def slug(model: str) -> str:
    """The model's name with everything that is not a letter, digit, dot or underscore made a hyphen."""
    return _OTHERS.sub("-", model).strip("-") or "model"


def engine_deployment_names(models: Iterable[str]) -> list[str]:
    """The name of each model's engine deployment, all different, in the order given."""
    names: list[str] = []
    for model in models:
        name = base = f"engine-{slug(model)}"
        # Two models' names may differ in just what a slug leaves out.
        count = 1
        while name in names:
            count += 1
            name = f"{base}-{count}"
        names.append(name)
    return names


def engine_deployments(models: Sequence[ModelSettings]) -> dict[str, ModelSettings]:
    """Models that have instances, by the names of their engine deployments, in the order given."""
    return dict(zip(engine_deployment_names(model.name for model in models), models, strict=True))
