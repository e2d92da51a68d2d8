"""A fleet inside the test's own process: scripted engines, a directory that the test writes, egresses without Ray."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from actors.channel.listener import Listener
from actors.directory.known_instance import Instance, InstanceState
from deployments.model_settings import RoutingSettings
from deployments.routing.local_egress import LocalEgress
from deployments.routing.route import Route
from deployments.routing.router import PushRouter
from engines.call_requests import Request
from engines.context import Context
from engines.contract import Engine, Load
from engines.errors import Draining, InstanceLost
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from engines.sink import Sink
from tests.deployments.waiting import until


class FaultyEgress(LocalEgress):
    """An egress that a test breaks."""

    def __init__(self, fleet: "FaultyFleet", engine: Engine, listener: Listener) -> None:
        super().__init__(engine, listener)
        self.load = Load()
        self.hear = listener.heard
        self._fleet = fleet

    @property
    def reported(self) -> Load:
        return self.load

    async def start(self) -> None:
        if self._engine.name in self._fleet.unreachable:
            raise InstanceLost("unreachable", instance=self._engine.name)
        await super().start()

    def lose(self, *suspects: Request, is_dead: bool = True) -> None:
        self._is_open = False
        error = InstanceLost("lost", instance=self._engine.name)
        self.listener.lost(error, suspects, is_dead=is_dead)
        for stream in [*self.streams]:
            stream.fail(error)

    async def probe(self, timeout_s: float) -> None:
        self._fleet.probes.append(self._engine.name)
        if self._engine.name in self._fleet.hanging:
            raise InstanceLost("hangs")

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        if self._engine.name in self._fleet.draining:
            raise Draining("draining")
        await super().submit(request, context, sink)


class FaultyFleet:
    """Instances that a PushRouter of the same process can route over.

    Attributes:
        router: The one of the latest `route`.
    """

    def __init__(self) -> None:
        self.engines: dict[str, ScriptedEngine] = {}
        self.egresses: dict[str, list[FaultyEgress]] = {}
        self.unreachable: set[str] = set()
        self.draining: set[str] = set()
        self.hanging: set[str] = set()
        self.probes: list[str] = []
        self.router: PushRouter
        self._instances: dict[str, Instance] = {}
        self._changed = asyncio.Event()
        self._broken: Exception | None = None

    async def add(
        self,
        id: str,
        engine: ScriptedEngine | None = None,
        *,
        model: str = "m",
        state: InstanceState = InstanceState.READY,
        incarnation: int = 0,
        node: str = "",
    ) -> ScriptedEngine:
        engine = engine or ScriptedEngine(id)
        if not engine.ready:
            await engine.start()
        self.engines[id] = engine
        self._instances[id] = Instance(
            id=id,
            model=model,
            node=node,
            state=state,
            incarnation=incarnation,
            capabilities=engine.capabilities,
            since_s=time.time(),
        )
        self._changed.set()
        return engine

    def set_state(self, id: str, state: InstanceState) -> None:
        self._instances[id] = replace(self._instances[id], state=state)
        self._changed.set()

    def remove(self, id: str) -> None:
        del self._instances[id]
        self._changed.set()

    def fall_silent(self, error: Exception) -> None:
        self._broken = error
        self._changed.set()

    def egress(self, id: str) -> FaultyEgress:
        """The latest egress to the instance."""
        return self.egresses[id][-1]

    async def watch(self) -> AsyncIterator[Sequence[Instance]]:
        while True:
            self._changed.clear()
            if self._broken is not None:
                raise self._broken
            yield list(self._instances.values())
            await self._changed.wait()

    def connect(self, instance: Instance, listener: Listener) -> FaultyEgress:
        egress = FaultyEgress(self, self.engines[instance.id], listener)
        self.egresses.setdefault(instance.id, []).append(egress)
        return egress

    async def convict(self, fingerprint: str) -> None:
        """Tells nobody."""

    async def serve(self, *models: str, adapters: dict[str, str] | None = None, **routing: object) -> PushRouter:
        """A router over these instances, started and connected to all that is ready now."""
        settings = RoutingSettings.model_validate(routing)
        choose = dict.fromkeys(models, settings)
        router = PushRouter(choose, self.watch, self.connect, adapters=adapters, convict=self.convict)
        await router.start()
        await until(lambda: all(self._is_connected(id) for id, one in self._instances.items()))
        return router

    async def route(self, **routing: object) -> Route:
        """The route to the model `m`, of a router of its own."""
        self.router = await self.serve("m", **routing)
        return self.router.routes["m"]

    def _is_connected(self, id: str) -> bool:
        if self._instances[id].state is not InstanceState.READY:
            return True
        return id in self.egresses and (self.egress(id).ready or id in self.unreachable)
