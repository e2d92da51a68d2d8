"""Operators: engines built around another engine.

An operator is made from its options alone, and learns what it is around when a pipeline is linked
(`engines.operators.link`). It sees requests on their way in and events on their way out, and may change the type of
either: `Operator[UpRequest, UpEvent, DownRequest, DownEvent]` answers the first two by asking for the others, which is
what a translation between two APIs is. `Transparent` is the base of those that leave the types alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, Self

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.contract import Capabilities, Engine, Load, Progress, PushEngine, RequestT
from engines.events import Event, Finished, Started
from engines.requests import GenerateRequest
from engines.sink import EventT, Sink

UpRequest = TypeVar("UpRequest", default=GenerateRequest)
UpEvent = TypeVar("UpEvent", default=Event)
DownRequest = TypeVar("DownRequest", default=UpRequest)
DownEvent = TypeVar("DownEvent", default=UpEvent)


class OperatorOptions(BaseModel):
    """Base of every operator's options: unknown keys are errors.

    Attributes:
        packages: What the operator imports that may not be installed, and what to do then, by the package's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    packages: ClassVar[Mapping[str, str]] = {}


class Operator(PushEngine[UpRequest, UpEvent], Generic[UpRequest, UpEvent, DownRequest, DownEvent]):
    """An engine around another one. All but streams is passed on as it is.

    Attributes:
        report: Hears what the operator wants counted or logged, such as a `Move`; whoever builds the pipeline may set
            it.
    """

    _inner: Engine[DownRequest, DownEvent] | None = None
    report: Callable[[Any], None] = staticmethod(lambda _: None)

    @property
    def inner(self) -> Engine[DownRequest, DownEvent]:
        """What it is around.

        Raises:
            ValueError: It was not linked.
        """
        if self._inner is None:
            raise ValueError(f"{type(self).__name__} is around nothing yet: link(operator, ..., engine) says what.")
        return self._inner

    def around(self, inner: Engine[DownRequest, DownEvent]) -> Self:
        """Says what it is around, once; returns the operator itself. `link` does this for a whole pipeline.

        Raises:
            ValueError: It is around an engine already.
        """
        if self._inner is not None:
            raise ValueError(f"{type(self).__name__} is linked already, around {self._inner.name!r}.")
        self._inner = inner
        return self

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
        """Whether the inner engine is."""
        return self.inner.ready

    @property
    def steps(self) -> int | None:
        """The inner engine's."""
        return self.inner.steps

    @property
    def slots(self) -> int | None:
        """The inner engine's."""
        return self.inner.slots

    def progress(self, context: Context) -> Progress | None:
        """How far the inner engine is with the stream of this context; None where it cannot tell."""
        return self.inner.progress(context)

    async def start(self) -> None:
        """Boots the inner engine. Raises a PenstockError where that fails."""
        await self.inner.start()

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Releases everything within the deadline. Idempotent."""
        await self.inner.stop(timeout_s)

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises a PenstockError where it cannot."""
        return await self.inner.call(request, context)

    def load(self) -> Load:
        """How busy the inner engine is now."""
        return self.inner.load()

    async def check_health(self) -> None:
        """Returns when it can work. Raises NotReady while it boots, EngineDead when it is finished."""
        await self.inner.check_health()


class Transparent(Operator[RequestT, EventT, RequestT, EventT]):
    """An operator whose requests and events are those of what it is around: it passes on what it does not override."""

    async def submit(self, request: RequestT, context: Context, sink: Sink[EventT]) -> None:
        """Answers into a sink; returns once the request is accepted. Raises a PenstockError before that."""
        await self.inner.submit(request, context, sink)


def end_before_start(request: GenerateRequest, engine: str, sink: Sink) -> None:
    """Ends a stream that its caller stopped before any engine took the request."""
    sink.emit(Started(engine, request.model))
    sink.emit(Finished.cancelled(request.sampling.n, engine))
