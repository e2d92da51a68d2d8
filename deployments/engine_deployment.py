"""The engine deployment: one Serve replica for each instance, which places, boots, watches and ends an engine actor.

The replica is no part of the way of a request. Serve gives it a placement group that holds the actor's CPUs and GPUs,
calls `check_health`, replaces it when that fails, and waits for `__del__` when it scales down or upgrades.
"""

import asyncio
import logging
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError

from actors.channel.calls import result
from actors.directory.client import DirectoryClient
from actors.directory.known_instance import Instance
from actors.instance.engine_actor import create_engine_actor
from actors.instance.placement import Footprint, actor_options
from actors.patience import within
from actors.settings import ChannelSettings
from deployments.boot_backoff import BootBackoff
from deployments.loopback_ray import keep_replica_on_loopback
from deployments.model_settings import ModelSettings
from deployments.names import slug
from engines.errors import EngineDead, EngineFailed, PenstockError, Timeout

logger = logging.getLogger(__name__)

STOP_S = 30.0
"""What an engine gets to release its memory and child processes, after its requests are over."""
HUNG_STOP_S = 5.0
"""The same for one that hangs: it will hardly do it by itself."""
MARGIN_S = 10.0
"""What the calls around draining and stopping may take together."""


class EngineDeployment:
    """Holds one instance.

    Booting is `__init__`: Serve counts the replica as starting until it returns, and does not check its health before.

    Args:
        model: The model that the instance serves.
        footprint: What the instance reserves in Ray.
        fleet: Name of the fleet.
        channel: How its channels behave.
    """

    # `__del__` is called even when `__init__` did not come to an end.
    _actor: Any = None
    _engine_hangs = False

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, model: ModelSettings, footprint: Footprint, fleet: str, channel: ChannelSettings
    ) -> None:
        keep_replica_on_loopback()
        self._model = model
        self._id = f"{slug(model.name)}-{serve.get_replica_context().replica_tag}"
        self._backoff = BootBackoff(DirectoryClient(fleet), Instance(self._id, model.name), model)
        await self._backoff.wait()
        # Also held here: `__del__` may come while this boots, and takes it from the attribute.
        actor = self._actor = create_engine_actor(
            self._id,
            fleet,
            model.spec(),
            model.admission,
            channel,
            options=actor_options(footprint, model.runtime_env),
            followers=[
                actor_options(footprint, model.runtime_env, node_rank=rank) for rank in range(1, footprint.nnodes)
            ],
            sleep=model.sleep,
        )
        try:
            async with asyncio.timeout(model.start_timeout_s):
                await result(actor.boot.remote(), self._id)
        except TimeoutError:
            ray.kill(actor)
            late = EngineFailed(
                f"The instance {self._id} has not booted within start_timeout_s ({model.start_timeout_s:g} s)."
            )
            await self._backoff.failed(late.message)
            raise late from None
        except Exception as error:
            ray.kill(actor)
            await self._backoff.failed(error.message if isinstance(error, PenstockError) else repr(error))
            raise
        except BaseException:
            ray.kill(actor)
            raise
        self._backoff.booted()

    async def check_health(self) -> None:
        """Returns while the actor lives and its engine works; an engine without work is asked for one token.

        Raises:
            RayActorError: Actor or engine are finished, or hang. Serve replaces the replica at once.
            PenstockError: The engine does not work. Serve replaces the replica after the third time in a row.
        """
        try:
            await self._check_health()
        except RayActorError as error:
            # Ray's text has many lines, of which the first says it.
            await self._backoff.ended((str(error).splitlines() or ["The actor died."])[0])
            raise
        await self._backoff.lives()

    async def _check_health(self) -> None:
        if self._actor is None:
            raise RayActorError(error_msg=f"The instance {self._id} hung, and was killed.")
        health = self._model.health
        stall_s = self._model.patience.stall_s
        check = self._actor.check_health.remote(health.canary_idle_s, health.timeout_s / 2, stall_s)
        try:
            # Ray's own error for a dead actor goes through as it is: it is what Serve looks for.
            await within(health.timeout_s, check)
        except EngineDead as error:
            raise RayActorError(error_msg=error.message) from error
        except Timeout as error:
            self._engine_hangs = True
            raise RayActorError(error_msg=f"The engine of {self._id} hangs. {error.message}") from error
        except TimeoutError:
            # Nor would it answer when it is told to end.
            actor, self._actor = self._actor, None
            ray.kill(actor)
            raise RayActorError(
                error_msg=f"The actor of {self._id} did not answer within {health.timeout_s:g} s."
            ) from None

    async def __del__(self) -> None:
        """Takes no new work, lets requests end, stops the engine, and ends the actor; a hung engine's move at once."""
        actor, self._actor = self._actor, None
        if actor is None:
            return
        try:
            if self._engine_hangs:
                # Stopping hands over what runs, without waiting for it.
                await result(actor.stop.remote(HUNG_STOP_S), self._id)
            else:
                await result(actor.drain.remote(self._model.drain_timeout_s), self._id)
                await result(actor.stop.remote(STOP_S), self._id)
        except PenstockError as error:
            # It died before it was asked to; there is nobody left to wait for.
            logger.warning("The instance %s did not end as it should: %s", self._id, error.message)
        ray.kill(actor)


def shutdown_timeout_s(model: ModelSettings) -> float:
    """Seconds after which Serve may kill a replica that was asked to end."""
    return model.drain_timeout_s + STOP_S + MARGIN_S
