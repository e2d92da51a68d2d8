"""`penstock build`: a fleet as Ray Serve's own config file, for `serve deploy` and for KubeRay's RayService."""

import yaml

from deployments.fleet_settings import FleetSettings

IMPORT_PATH = "deployments.app:build"


def serve_config(fleet: FleetSettings) -> str:
    """The config as YAML: one application, the fleet its arguments, and no proxy of Serve's own."""
    config = {
        "proxy_location": "Disabled",
        "applications": [
            {
                "name": fleet.name,
                "route_prefix": None,
                "import_path": IMPORT_PATH,
                # Only what differs from the defaults: the file stays readable, and takes better defaults later.
                "args": fleet.model_dump(mode="json", exclude_defaults=True),
            }
        ],
    }
    return yaml.safe_dump(config, sort_keys=False)
