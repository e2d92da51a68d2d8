"""What Serve is told of a fleet whose numbers of replicas follow the load.

One replica count follows what routers report, and Serve takes the policy that sees both only from its config files: so
such a fleet is always deployed by a config. One with fixed numbers is deployed as ever.
"""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from deployments.application_config import application_config
from deployments.fleet_settings import FleetSettings
from deployments.serve_private import config_client

KEEP = "deployments.scaling:keep"
REPORT_S = 1.0
"""How often replicas report to Serve's controller. Serve calls the setting deprecated; nothing else shortens its 10 s
without reaching every other application."""
LOOK_BACK_S = 5.0
"""How long Serve keeps a report; the policy takes the last one."""
_POLL_S = 0.25


def autoscaling_config(least: int, most: int) -> AutoscalingConfig:
    """Serve's own settings of a deployment whose replicas the fleet's policy sets: no delay but the policy's."""
    return AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        upscale_delay_s=0.0,
        downscale_delay_s=0.0,
        downscale_to_zero_delay_s=0.0,
        metrics_interval_s=REPORT_S,
        look_back_period_s=LOOK_BACK_S,
        policy=AutoscalingPolicy(policy_function=KEEP),
    )


def apply(settings: FleetSettings, *, wait: bool) -> None:
    """Deploys a fleet by Serve's config, beside whatever else was deployed so: a config replaces all others.

    Args:
        settings: The fleet.
        wait: Whether to return only when it runs.

    Raises:
        RuntimeError: It does not come to run, or Serve takes no config from here.
    """
    serve.start(proxy_location="Disabled")
    client = config_client()
    details = client.get_serve_details()
    others = [
        _as_written(application.get("deployed_app_config"))
        for name, application in details["applications"].items()
        # One that was deleted must not come to life again.
        if name != settings.name and application["status"] != ApplicationStatus.DELETING
    ]
    ours = application_config(settings)
    # As ever, a fleet that is deployed again is upgraded, whether its file has changed or only its code.
    ours["autoscaling_policy"]["policy_kwargs"]["generation"] = uuid.uuid4().hex
    config: dict[str, Any] = {
        "applications": [*(other for other in others if other is not None), ours],
        "target_capacity": details.get("target_capacity"),
    }
    client.deploy_apps(ServeDeploySchema.model_validate(config))
    if wait:
        _until_running(settings.name)


def _as_written(config: Any) -> Mapping[str, Any] | None:
    """The config that an application was deployed with, as it was written; None: it was deployed without one."""
    if config is None:
        return None
    return config if isinstance(config, dict) else config.model_dump(exclude_unset=True)


def _until_running(name: str) -> None:
    while True:
        status = serve.status().applications.get(name)
        if status is not None and status.status == ApplicationStatus.RUNNING:
            return
        if status is not None and status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise RuntimeError(f"The application {name} does not come to run: {status.message}")
        time.sleep(_POLL_S)
