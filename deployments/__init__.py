"""Ray Serve: the engine and router deployments, the HTTP ingress, the Python handle.

The names below are loaded when they are first used: the rooms that know nothing of Ray are packages in here, too.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from engines.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from deployments.app import build, deploy
    from deployments.fleet import Fleet, Model, ModelCard
    from deployments.fleet_connection import connect
    from deployments.fleet_settings import FleetSettings
    from deployments.handle import FleetHandle
    from deployments.http.ingress import HttpIngress
    from deployments.local_fleet import LocalFleet
    from deployments.model_settings import ModelSettings

__all__ = [
    "Fleet",
    "FleetHandle",
    "FleetSettings",
    "HttpIngress",
    "LocalFleet",
    "Model",
    "ModelCard",
    "ModelSettings",
    "build",
    "connect",
    "deploy",
]

__version__ = version("penstock")

_MODULES = {
    "Fleet": "deployments.fleet",
    "FleetHandle": "deployments.handle",
    "FleetSettings": "deployments.fleet_settings",
    "HttpIngress": "deployments.http.ingress",
    "LocalFleet": "deployments.local_fleet",
    "Model": "deployments.fleet",
    "ModelCard": "deployments.fleet",
    "ModelSettings": "deployments.model_settings",
    "build": "deployments.app",
    "connect": "deployments.fleet_connection",
    "deploy": "deployments.app",
}

__getattr__ = lazy_exports(__name__, _MODULES)
