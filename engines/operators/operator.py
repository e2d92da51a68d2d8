"""Operators: engines built around another engine."""

from collections.abc import AsyncIterator

from engines.context import Context
from engines.contract import Capabilities, Engine, Load, Progress, PushEngine, Sink
from engines.events import Event
from engines.requests import DetokenizeRequest, Embeddings, EmbedRequest, GenerateRequest, Tokenized, TokenizeRequest


class Operator(PushEngine):
    """An engine around another one, which passes everything on: the base of those that change something.

    Args:
        engine: What it is built around.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:  # type: ignore[override]
        """The inner engine's: an operator answers in its name."""
        return self._engine.name

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """The inner engine's."""
        return self._engine.capabilities

    @property
    def ready(self) -> bool:
        """As the inner engine."""
        return self._engine.ready

    @property
    def steps(self) -> int | None:
        """The inner engine's."""
        return self._engine.steps

    def progress(self, context: Context) -> Progress | None:
        """How far the inner engine is with the stream of this context; None where it cannot tell."""
        return self._engine.progress(context)

    async def start(self) -> None:
        """As `Engine.start`."""
        await self._engine.start()

    async def stop(self, timeout_s: float = 30.0) -> None:
        """As `Engine.stop`."""
        await self._engine.stop(timeout_s)

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """As `Engine.submit`."""
        await self._engine.submit(request, context, sink)

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        """As `Engine.embed`."""
        return await self._engine.embed(request, context)

    def converse(self, inputs: AsyncIterator[GenerateRequest], context: Context) -> AsyncIterator[Event]:
        """As `Engine.converse`."""
        return self._engine.converse(inputs, context)

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """As `Engine.tokenize`."""
        return await self._engine.tokenize(request)

    async def detokenize(self, request: DetokenizeRequest) -> str:
        """As `Engine.detokenize`."""
        return await self._engine.detokenize(request)

    def load(self) -> Load:
        """As `Engine.load`."""
        return self._engine.load()

    async def check_health(self) -> None:
        """As `Engine.check_health`."""
        await self._engine.check_health()
