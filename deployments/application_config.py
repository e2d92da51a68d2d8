"""A fleet as an application of Ray Serve's config files."""

from typing import Any

from deployments.fleet_settings import FleetSettings
from deployments.names import ROUTER, engine_deployments
from deployments.replica_settings import QUEUE_TIME_S, ReplicaBounds, RouterBounds
from deployments.scaling.work_rates import PRIOR

IMPORT_PATH = "deployments.app:build"
POLICY = "deployments.scaling:FleetPolicy"


def application_config(settings: FleetSettings) -> dict[str, Any]:
    """A fleet as an application of Serve's config files.

    Args:
        settings: The fleet.
    """
    config: dict[str, Any] = {
        "name": settings.name,
        "route_prefix": None,
        "import_path": IMPORT_PATH,
        # Only what differs from the defaults: the file stays readable, and takes better defaults later.
        "args": settings.model_dump(mode="json", exclude_defaults=True),
    }
    if settings.has_policy:
        config["autoscaling_policy"] = {"policy_function": POLICY, "policy_kwargs": policy_arguments(settings)}
    elif settings.is_scaled:
        config["external_scaler_enabled"] = True
    return config


def policy_arguments(settings: FleetSettings) -> dict[str, Any]:
    """The arguments of a fleet's policy (`deployments.scaling.policy.FleetPolicy`): plain values."""
    bounds = {name: model.bounds for name, model in engine_deployments(settings.deployed).items()}
    routers = settings.router.replicas
    return {
        "fleet": settings.name,
        "router": ROUTER,
        "engines": {name: _goal(one) for name, one in bounds.items() if one is not None},
        "routers": routers.model_dump() if isinstance(routers, RouterBounds) else None,
        "leave_s": settings.http.notice_s + settings.http.drain_s,
    }


def _goal(bounds: ReplicaBounds) -> dict[str, Any]:
    return {
        "min": bounds.min,
        "max": bounds.max,
        "spare": bounds.spare,
        "wait_s": bounds.ttft_s or bounds.queue_time_s or QUEUE_TIME_S,
        "counts_prefill": bounds.ttft_s is not None,
        "idle_s": bounds.idle_s,
        "prompt_tokens_per_s": bounds.prompt_tokens_per_s or PRIOR.prompt_tokens_per_s,
        "output_tokens_per_s": bounds.output_tokens_per_s or PRIOR.output_tokens_per_s,
    }
