"""A fleet on a Ray of this process's own, for the programs that measure one from the inside."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import ray
from ray import serve

from deployments.app import deploy
from deployments.fleet_settings import FleetSettings
from tests.benchmarks.servers import HOST
from tests.own_ray import start_ray


@contextlib.asynccontextmanager
async def deployed_alone(settings: FleetSettings, *, ray_cpus: int, store_bytes: int) -> AsyncIterator[None]:
    """Starts Ray and deploys the fleet, which runs from then on; takes both down at the end.

    Args:
        settings: The fleet; its name is the Ray namespace, too.
        ray_cpus: CPUs that Ray counts with.
        store_bytes: Size of Ray's object store.
    """
    start_ray(namespace=settings.name, num_cpus=ray_cpus, object_store_memory=store_bytes, _node_ip_address=HOST)
    try:
        serve.start(proxy_location="Disabled")
        await asyncio.to_thread(deploy, settings)
        yield
        await asyncio.to_thread(serve.shutdown)
    finally:
        ray.shutdown()
