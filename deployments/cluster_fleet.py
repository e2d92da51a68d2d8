"""The fleet that is deployed on this Ray cluster, in whatever process asks for it.

A router replica is one such process; a Python program on the cluster may be another, and then calls the fleet's
instances without a hop in between. What it asks for is not counted, then, where instances follow their load.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence

import ray
from ray.exceptions import RayError

from actors.channel.egress import Egress
from actors.channel.listener import Listener
from actors.directory.client import DirectoryClient
from actors.directory.known_instance import Instance
from deployments.fleet import Fleet
from deployments.fleet_settings import FleetSettings
from deployments.pipelines import Report, build_models
from deployments.routing.demand_meter import DemandMeter
from deployments.routing.fault_budget import MEMORY_S
from deployments.routing.router import PushRouter

logger = logging.getLogger(__name__)


def cluster_fleet(
    settings: FleetSettings,
    directory: DirectoryClient,
    report: Report = lambda model, said: None,
    meters: Mapping[str, DemandMeter] | None = None,
) -> Fleet:
    """A deployed fleet, each model with its operators; `start` it first.

    This process must be connected to the fleet's Ray cluster.

    Args:
        settings: The fleet.
        directory: Its directory.
        report: Hears what the operators report.
        meters: Count what is asked of models whose instances follow their load, by the model's name.
    """
    patience = {model.name: model.patience for model in settings.deployed}

    async def watch() -> AsyncIterator[Sequence[Instance]]:
        async for view in directory.watch():
            router.fault_budget.key = view.key
            router.fault_budget.learn(view.quarantined)
            yield list(view.instances.values())

    async def convict(fingerprint: str) -> None:
        logger.warning("A request took engines with it; it is refused from now on. Its fingerprint: %s", fingerprint)
        try:
            await directory.quarantine(fingerprint, MEMORY_S)
        except (RayError, TimeoutError, ValueError) as error:
            # The other routers find out by themselves, at the cost of engines.
            logger.warning("The other routers could not be told of a quarantine: %s", type(error).__name__)

    def connect(instance: Instance, listener: Listener) -> Egress:
        return Egress(instance, settings.channel, listener, patience.get(instance.model))

    node = ray.get_runtime_context().get_node_id()
    routing = {model.name: model.routing_in_effect for model in settings.deployed}
    adapters = {adapter.name: model.name for model in settings.deployed for adapter in model.adapters}
    router = PushRouter(routing, watch, connect, adapters=adapters, node=node, convict=convict, meters=meters)

    return Fleet(settings.name, router, build_models(settings, router.routes, report))
