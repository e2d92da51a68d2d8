"""The Serve application of a fleet: `deployments.app:build`.

`serve run deployments.app:build models=...`, `serve deploy` and KubeRay call it with the content of a fleet file.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from deployments import router_deployment, scaled_application
from deployments.cluster_nodes import living_nodes
from deployments.engine_deployment import MARGIN_S, EngineDeployment, shutdown_timeout_s
from deployments.fleet_settings import FleetSettings
from deployments.instance_footprint import footprint_of
from deployments.instance_gpus import needs_nodes
from deployments.model_settings import ModelSettings
from deployments.names import ROUTER, engine_deployments
from deployments.router_deployment import RouterDeployment
from deployments.serve_private import one_on_a_node

MAX_ONGOING_REQUESTS = 10_000
"""Handle calls that one router replica takes at a time: admission is the instances' work, not Serve's."""
WAIT_LOOP_S = 0.2
"""How often Serve looks whether a replica that ends has handle calls left."""
ROUTER_ENVIRONMENT = {"RAY_timeout_ms_task_wait_for_death_info": "0"}
"""Ray keeps a call that failed by the network for a second, to find out whether its actor died; a node that dies with
all of its processes cannot say so. Without that wait its streams move after a tenth of a second instead of 1 to 2 s."""
NO_ACCESS_LOG = {"enable_access_log": False}


def build(args: Mapping[str, Any] | FleetSettings) -> Application:
    """The application of a fleet: an engine deployment for each model that has instances, and the router deployment.

    The router is its ingress, and listens while the engines still boot.

    Args:
        args: The fleet: its settings, or what a fleet file says.

    Raises:
        pydantic.ValidationError: The settings are wrong.
        InvalidRequest: There is no such engine.
    """
    settings = args if isinstance(args, FleetSettings) else FleetSettings.model_validate(args)
    engines = [
        _engine_deployment(name, model, settings) for name, model in engine_deployments(settings.deployed).items()
    ]
    routers = settings.router
    resources = {**routers.resources, **(one_on_a_node() if routers.per_node else {})}
    router = serve.deployment(
        RouterDeployment,
        name=ROUTER,
        # What the routers report arrives only where their own number may change, be it within a single one.
        **_replicas(routers.least_replicas, routers.most_replicas, has_policy=settings.has_policy),
        ray_actor_options={
            "num_cpus": routers.cpus,
            "resources": resources,
            "runtime_env": {"env_vars": ROUTER_ENVIRONMENT},
        },
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        # The port is shared, so an upgrade need not close it: each replica's successor listens before it ends.
        max_surge_percent=100,
        graceful_shutdown_wait_loop_s=WAIT_LOOP_S,
        graceful_shutdown_timeout_s=router_deployment.shutdown_timeout_s(settings),
        logging_config=NO_ACCESS_LOG,
    )
    application: Application = router.bind(settings, *engines)
    return application


def deploy(settings: FleetSettings, *, wait: bool = True) -> None:
    """Deploys a fleet on the Ray cluster that this process is connected to, or upgrades it.

    Args:
        settings: The fleet.
        wait: Whether to return only when it runs.

    Raises:
        RuntimeError: It does not come to run.
    """
    if settings.has_policy:
        scaled_application.apply(settings, wait=wait)
        return
    target = serve.RunTarget(
        build(settings), name=settings.name, route_prefix=None, external_scaler_enabled=settings.is_scaled
    )
    serve.run_many([target], wait_for_ingress_deployment_creation=wait, wait_for_applications_running=wait)


def _engine_deployment(name: str, model: ModelSettings, settings: FleetSettings) -> Application:
    # Only a model that leaves its GPUs open needs a cluster to be there by now.
    instance = footprint_of(model, [node.resources for node in living_nodes()] if needs_nodes(model) else ())
    deployment = serve.deployment(
        EngineDeployment,
        name=name,
        **_replicas(
            model.least_replicas,
            model.most_replicas,
            has_policy=settings.has_policy and model.bounds is not None,
        ),
        # The replica needs next to nothing, and leaves all that is reserved to the actor.
        ray_actor_options={"num_cpus": 0},
        **instance.group,
        max_surge_percent=model.surge_percent,
        health_check_period_s=model.health.period_s,
        # Past our own, which knows better what to do about it.
        health_check_timeout_s=model.health.timeout_s + MARGIN_S,
        graceful_shutdown_wait_loop_s=WAIT_LOOP_S,
        graceful_shutdown_timeout_s=shutdown_timeout_s(model),
        logging_config=NO_ACCESS_LOG,
    )
    application: Application = deployment.bind(model, instance, settings.name, settings.channel)
    return application


def _replicas(least: int, most: int, *, has_policy: bool) -> dict[str, Any]:
    if not has_policy:
        # The first number of one that a router replica sets; Serve knows no 0 here.
        return {"num_replicas": max(1, least)}
    return {"autoscaling_config": scaled_application.autoscaling_config(least, most)}
