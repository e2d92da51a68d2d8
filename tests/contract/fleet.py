"""A whole fleet as one engine: simulated instances deployed by Serve, seen through a router of this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.directory.client import DirectoryClient
from deployments.cluster_fleet import cluster_fleet
from deployments.fleet_settings import FleetSettings
from engines.contract import Engine
from tests.contract.asking import eventually

FLEET = FleetSettings.model_validate(
    {
        "name": "contract",
        "http": {"port": 0},
        "router": {"cpus": 0.1},
        "models": [
            {
                "name": "model",
                "engine": "simulated",
                "replicas": 2,
                "cpus": 0.1,
                "drain_timeout_s": 1.0,
                "options": {"speed": 20},
            }
        ],
    }
)


@asynccontextmanager
async def fleet() -> AsyncIterator[Engine]:
    """Needs Serve (`serve_cluster`)."""
    from ray import serve

    from deployments.app import build

    await asyncio.to_thread(serve.run, build(FLEET), name=FLEET.name, route_prefix=None)
    served = cluster_fleet(FLEET, DirectoryClient(FLEET.name))
    await served.start()
    try:
        await eventually(lambda: [card.ready for card in served.cards()] == [2])
        yield served.models[0].engine
    finally:
        await served.stop(0)
        await asyncio.to_thread(serve.delete, FLEET.name)
