"""Where the keys of an ingress come from, and whether it may listen without any."""

import ipaddress
from pathlib import Path

from deployments.fleet_settings import HttpSettings
from deployments.http.server.refusals import CannotListen
from deployments.tenants.followed_keys import KeysOfFile, Pushed, PushedKeys, nothing_pushed
from deployments.tenants.keys import Keys, KeysOfEnvironment


def key_source(settings: HttpSettings, pushed: Pushed = nothing_pushed) -> Keys:
    """Where the keys are.

    Args:
        settings: What says so.
        pushed: Asks for the keys that were sent to the fleet.

    Raises:
        CannotListen: Anybody could ask, from other machines, and the settings do not say that this is meant.
    """
    if settings.keys.file is not None:
        return KeysOfFile(Path(settings.keys.file))
    if settings.keys.pushed:
        return PushedKeys(pushed)
    keys = KeysOfEnvironment(settings.keys_env, is_asked_for=settings.api_keys_env is not None)
    if keys.is_open and not settings.open and not is_loopback(settings.host):
        raise CannotListen(
            f"Whoever reaches {settings.host} could use the models. Set http.keys.file, or keys in the environment "
            f"variable {settings.keys_env}; or http.open: true, if that is meant."
        )
    return keys


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
