"""A fleet as Ray Serve's own config file, for `serve deploy`, and within KubeRay's RayService."""

import yaml

from deployments.application_config import application_config
from deployments.fleet_settings import FleetSettings


def serve_config(fleet: FleetSettings) -> str:
    """The config as YAML: one application, the fleet its arguments, and no proxy of Serve's own."""
    config = {
        "proxy_location": "Disabled",
        "applications": [application_config(fleet)],
    }
    return yaml.safe_dump(config, sort_keys=False)
