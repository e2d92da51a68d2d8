"""A fleet inside the test's own process: scripted engines, a directory that the test writes, links without Ray."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from actors.channel.listener import Listener
from actors.directory.known_instance import Instance, InstanceState
from deployments.fleet_settings import ModelSettings
from deployments.routing.router import PushRouter
from engines.context import Context
from engines.contract import Engine, Load, Sink
from engines.errors import Draining, InstanceLost, PenstockError
from engines.events import Event, Finished
from engines.requests import (
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    Request,
    Tokenized,
    TokenizeRequest,
)
from engines.scripted.engine import ScriptedEngine
from tests.deployments.waiting import until


class LocalLink:
    """A link to an engine of this process."""

    def __init__(self, fleet: "LocalFleet", engine: Engine, listener: Listener) -> None:
        self.in_flight = 0
        self.is_draining = False
        self.reported = Load()
        self.heard_s = self.spoke_s = 0.0
        self.is_stalled = False
        self.ready = False
        self.sinks: set[_CountingSink] = set()
        self._fleet = fleet
        self._engine = engine
        self.listener = listener
        self.hear = listener.heard

    async def start(self) -> None:
        if self._engine.name in self._fleet.unreachable:
            raise InstanceLost("unreachable", instance=self._engine.name)
        self.ready = True

    async def stop(self, timeout_s: float = 30.0) -> None:
        self.ready = False

    def lose(self, *suspects: Request, is_dead: bool = True) -> None:
        self.ready = False
        error = InstanceLost("lost", instance=self._engine.name)
        self.listener.lost(error, suspects, is_dead=is_dead)
        for sink in [*self.sinks]:
            sink.fail(error)

    async def probe(self, timeout_s: float) -> None:
        self._fleet.probes.append(self._engine.name)
        if self._engine.name in self._fleet.hanging:
            raise InstanceLost("hangs")

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        counting = _CountingSink(self, sink, request.sampling.n)
        try:
            if self._engine.name in self._fleet.draining:
                raise Draining("draining")
            await self._engine.submit(request, context, counting)
        except BaseException:
            counting.end()
            raise

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        return await self._engine.embed(request, context)

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        return await self._engine.tokenize(request)

    async def detokenize(self, request: DetokenizeRequest) -> str:
        return await self._engine.detokenize(request)


class _CountingSink:
    def __init__(self, link: LocalLink, sink: Sink, weight: int) -> None:
        self._link: LocalLink | None = link
        self._sink = sink
        self._weight = weight
        link.in_flight += weight
        link.sinks.add(self)

    def emit(self, event: Event) -> None:
        if self._link is not None:
            if isinstance(event, Finished):
                self.end()
            self._sink.emit(event)

    def fail(self, error: PenstockError) -> None:
        if self._link is not None:
            self.end()
            self._sink.fail(error)

    def end(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.in_flight -= self._weight
            link.sinks.discard(self)


class LocalFleet:
    """Instances that a PushRouter of the same process can route over."""

    def __init__(self) -> None:
        self.engines: dict[str, ScriptedEngine] = {}
        self.links: dict[str, list[LocalLink]] = {}
        self.unreachable: set[str] = set()
        self.draining: set[str] = set()
        self.hanging: set[str] = set()
        self.probes: list[str] = []
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

    def link(self, id: str) -> LocalLink:
        """The latest link to the instance."""
        return self.links[id][-1]

    async def watch(self) -> AsyncIterator[Sequence[Instance]]:
        while True:
            self._changed.clear()
            if self._broken is not None:
                raise self._broken
            yield list(self._instances.values())
            await self._changed.wait()

    def connect(self, instance: Instance, listener: Listener) -> LocalLink:
        link = LocalLink(self, self.engines[instance.id], listener)
        self.links.setdefault(instance.id, []).append(link)
        return link

    async def convict(self, fingerprint: str) -> None:
        """Tells nobody."""

    async def router(self, *models: ModelSettings, **routing: object) -> PushRouter:
        """A router over the fleet, started and connected to all that is ready now."""
        settings = models or (ModelSettings(name="m", engine="scripted", routing=routing),)
        router = PushRouter(settings, self.watch, self.connect, convict=self.convict)
        await router.start()
        await until(lambda: all(self._is_linked(id) for id, one in self._instances.items()))
        return router

    def _is_linked(self, id: str) -> bool:
        if self._instances[id].state is not InstanceState.READY:
            return True
        return id in self.links and (self.link(id).ready or id in self.unreachable)
