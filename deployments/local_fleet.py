"""A fleet of engines in this process, without Ray: for tests, and for embedding the ingress in a program."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from actors.directory.known_instance import Instance, InstanceState
from deployments.fleet_engine import FleetEngine, ModelCard
from engines.context import Context
from engines.contract import Capabilities, Engine, Load, Sink
from engines.errors import InstanceNotFound, ModelNotFound, NoInstance, NotReady, Overload, Overloaded, PenstockError
from engines.events import Event
from engines.requests import DetokenizeRequest, Embeddings, EmbedRequest, GenerateRequest, Tokenized, TokenizeRequest

Answer = TypeVar("Answer")


class LocalFleet(FleetEngine):
    """Engines of this process, taken in turn; a refusal moves the request on to the next engine of its model.

    Args:
        engines: The engines of each model, by the model's name.
        aliases: Other names of models, to the names above.
    """

    def __init__(self, engines: Mapping[str, Sequence[Engine]], aliases: Mapping[str, str] | None = None) -> None:
        self.name = "local-fleet"
        self._engines = {model: list(members) for model, members in engines.items()}
        self._aliases = dict(aliases or {})
        self._turns = dict.fromkeys(self._engines, 0)
        self._created_s = int(time.time())
        self.capabilities = Capabilities()

    @property
    def ready(self) -> bool:
        """Whether every model has a ready engine."""
        return all(any(engine.ready for engine in members) for members in self._engines.values())

    async def start(self) -> None:
        """Boots every engine."""
        await asyncio.gather(*(engine.start() for engine in self._all()))

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Stops every engine."""
        await asyncio.gather(*(engine.stop(timeout_s) for engine in self._all()))

    def models(self) -> Sequence[ModelCard]:
        """What is served, in the order given."""
        cards = []
        for model, members in self._engines.items():
            ready = [engine for engine in members if engine.ready]
            cards.append(
                ModelCard(
                    name=model,
                    aliases=tuple(alias for alias, name in self._aliases.items() if name == model),
                    created_s=self._created_s,
                    ready=len(ready),
                    instances=len(members),
                    capabilities=ready[0].capabilities if ready else Capabilities(),
                )
            )
        return cards

    def instances(self) -> Sequence[Instance]:
        """Every engine, as an instance."""
        return [
            Instance(
                id=engine.name,
                model=model,
                state=InstanceState.READY if engine.ready else InstanceState.STARTING,
                capabilities=engine.capabilities,
                load=engine.load(),
            )
            for model, members in self._engines.items()
            for engine in members
        ]

    def load(self) -> Load:
        """The engines' load together; the fullest KV cache counts."""
        loads = [engine.load() for engine in self._all()]
        return Load(
            running=sum(load.running for load in loads),
            queued=sum(load.queued for load in loads),
            kv_use=max((load.kv_use for load in loads), default=0.0),
        )

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """As `Engine.submit`."""
        model = self._model(request.model)
        request = request.model_copy(update={"model": model})
        await self._first(model, request.instance, lambda engine: engine.submit(request, context, sink))

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        """As `Engine.embed`."""
        model = self._model(request.model)
        request = request.model_copy(update={"model": model})
        return await self._first(model, request.instance, lambda engine: engine.embed(request, context))

    async def converse(self, inputs: AsyncIterator[GenerateRequest], context: Context) -> AsyncIterator[Event]:
        """As `Engine.converse`: stays with the engine that the first input went to."""
        first = await anext(inputs)
        model = self._model(first.model)
        engine = next(self._candidates(model, first.instance), None)
        if engine is None:
            raise NotReady(f"The model {model!r} is not ready.")

        async def renamed() -> AsyncIterator[GenerateRequest]:
            yield first.model_copy(update={"model": model})
            async for request in inputs:
                yield request.model_copy(update={"model": model})

        async for event in engine.converse(renamed(), context):
            yield event

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """As `Engine.tokenize`."""
        model = self._model(request.model)
        request = request.model_copy(update={"model": model})
        return await self._first(model, None, lambda engine: engine.tokenize(request))

    async def detokenize(self, request: DetokenizeRequest) -> str:
        """As `Engine.detokenize`."""
        model = self._model(request.model)
        request = request.model_copy(update={"model": model})
        return await self._first(model, None, lambda engine: engine.detokenize(request))

    def _all(self) -> Iterator[Engine]:
        for members in self._engines.values():
            yield from members

    def _model(self, name: str) -> str:
        model = self._aliases.get(name, name)
        if model not in self._engines:
            raise ModelNotFound(name, tuple(self._engines))
        return model

    def _candidates(self, model: str, instance: str | None) -> Iterator[Engine]:
        members = self._engines[model]
        turn = self._turns[model]
        self._turns[model] = turn + 1
        for offset in range(len(members)):
            engine = members[(turn + offset) % len(members)]
            if engine.ready and instance in (None, engine.name):
                yield engine

    async def _first(self, model: str, instance: str | None, ask: Callable[[Engine], Awaitable[Answer]]) -> Answer:
        if instance is not None and all(engine.name != instance for engine in self._engines[model]):
            raise InstanceNotFound(model, instance)
        refusals: list[PenstockError] = []
        for engine in self._candidates(model, instance):
            try:
                return await ask(engine)
            except PenstockError as error:
                error.at(engine.name)
                if not error.retryable:
                    raise
                refusals.append(error)
        if not refusals:
            raise NoInstance(f"No instance of the model {model!r} can take the request now.")
        if len(refusals) > 1 and all(isinstance(error, Overload) for error in refusals):
            waits = [error.retry_after_s for error in refusals if error.retry_after_s is not None]
            raise Overloaded(f"Every instance of the model {model!r} is full.", retry_after_s=min(waits, default=None))
        raise refusals[-1]
