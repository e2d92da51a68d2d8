"""Fleets, each for the tests of a module: one that stays costs all that come later."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from deployments.fleet_settings import DatabaseSettings, FleetSettings
from engines.errors import NotReady
from tests.deployments.waiting import until


@pytest.fixture(scope="module")
def deploy(serve_cluster: None) -> Iterator[Callable[[FleetSettings], Any]]:
    """Deploys a fleet, waits until it is all there, and returns the handle of its router; takes it down at the end."""
    from ray import serve

    from deployments.app import build
    from deployments.handle import FleetHandle

    names: list[str] = []

    def run(settings: FleetSettings) -> Any:
        names.append(settings.name)
        target = serve.RunTarget(build(settings), name=settings.name, route_prefix=None)
        # Not until Serve says that it runs: a health check that a busy machine fails meanwhile is a failure to Serve,
        # which then replaces the instance and goes on.
        (handle,) = serve.run_many([target], wait_for_applications_running=False)

        async def all_ready() -> None:
            fleet = FleetHandle(handle)
            # Each router replica finds the instances by itself; Serve asks now one, now the other.
            for _ in range(4 * settings.router.replicas):
                await until(partial(is_complete, fleet))

        async def is_complete(fleet: FleetHandle) -> bool:
            try:
                models = [card.ready for card in await fleet.models() if card.parent is None]
            except NotReady:  # One of its name was here before, whose end is all that is known.
                return False
            return models == [model.replicas for model in settings.models]

        asyncio.run(all_ready())
        return handle

    yield run
    for name in names:
        serve.delete(name)


FLEET = FleetSettings.model_validate(
    {
        "name": "shared",
        "http": {"port": 0},
        "router": {"replicas": 2, "cpus": 0.1},
        "models": [
            {
                "name": "echo",
                "aliases": ["parrot"],
                "engine": "scripted",
                "replicas": 3,
                "cpus": 0.1,
                "drain_timeout_s": 1.0,
                "options": {"attachments": True},
                "adapters": [{"name": "mimic", "path": "org/mimic"}],
            },
            {
                "name": "org/slow",
                "engine": "scripted",
                "cpus": 0.1,
                "drain_timeout_s": 1.0,
                "options": {"script": ["so far", {"hang": True}]},
                "admission": {"max_running": 2, "max_queued": 0},
            },
            {
                "name": "dozy",
                "engine": "simulated",
                "cpus": 0.1,
                "drain_timeout_s": 1.0,
                "options": {"speed": "instant", "wake_s": 0.5},
                "sleep": {"after_s": 1.0},
            },
        ],
    }
)


@pytest.fixture(scope="module")
def shared_fleet(deploy: Callable[[FleetSettings], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The router's handle of a fleet with two router replicas: three instances echo, one never ends, one sleeps."""
    database = DatabaseSettings(file=str(tmp_path_factory.mktemp("shared") / "penstock.sqlite"))
    return deploy(FLEET.model_copy(update={"database": database}))
