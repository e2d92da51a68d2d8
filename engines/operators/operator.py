"""Operators: engines built around another engine."""

from collections.abc import AsyncIterator

from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.contract import Capabilities, Engine, Load, Progress, PushEngine, Sink
from engines.events import Event
from engines.requests import GenerateRequest


class Operator(PushEngine):
    """An engine around another one, which passes everything on: the base of those that change something.

    Args:
        engine: What it is built around.

    Attributes:
        inner: As given.
    """

    def __init__(self, engine: Engine) -> None:
        self.inner = engine

    @property
    def name(self) -> str:  # type: ignore[override]
        """The inner engine's: an operator answers in its name."""
        return self.inner.name

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """The inner engine's."""
        return self.inner.capabilities

    @property
    def ready(self) -> bool:
        """As the inner engine."""
        return self.inner.ready

    @property
    def steps(self) -> int | None:
        """The inner engine's."""
        return self.inner.steps

    def progress(self, context: Context) -> Progress | None:
        """How far the inner engine is with the stream of this context; None where it cannot tell."""
        return self.inner.progress(context)

    async def start(self) -> None:
        """Boots; returns when ready. Raises a PenstockError where it cannot."""
        await self.inner.start()

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Releases everything within the deadline. Idempotent."""
        await self.inner.stop(timeout_s)

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises a PenstockError before that."""
        await self.inner.submit(request, context, sink)

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises a PenstockError where it cannot."""
        return await self.inner.call(request, context)

    def converse(self, inputs: AsyncIterator[GenerateRequest], context: Context) -> AsyncIterator[Event]:
        """Answers a stream of inputs with a stream of events. Raises a PenstockError where it cannot."""
        return self.inner.converse(inputs, context)

    def load(self) -> Load:
        """How busy it is now."""
        return self.inner.load()

    async def check_health(self) -> None:
        """Returns when it can work. Raises NotReady while it boots, EngineDead when it is finished."""
        await self.inner.check_health()
