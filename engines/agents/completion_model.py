"""A model as its callers see it: asked for a chat, it answers with a stream, wherever the tokens come from."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

from pydantic import ValidationError

from engines.completion import Completion, CompletionBuilder
from engines.context import Context
from engines.contract import Capabilities, Engine
from engines.conversation.converse import converse
from engines.conversation.events import ConversationEvent
from engines.conversation.frames import Frame, Open
from engines.errors import StreamIncomplete
from engines.events import Event, Started
from engines.requests import GenerateRequest, first_problem

ChatRequest = GenerateRequest | Mapping[str, Any]
"""What a model is asked: a `GenerateRequest`, or a mapping of its fields. `model` is the handle's."""


class ChatStream(AsyncIterator[Event]):
    """The events of one answer, from `Started` to `Finished`. Read it once.

    Leaving it (`aclose`, an `async with` that ends, or dropping it) kills the request, and frees the engine's slot.

    Args:
        events: The events after `started`.
        started: The first event.
        context: The request's.

    Attributes:
        started: The first event, which has come already.
        context: The request's id, `stop()` and `kill()`.
    """

    def __init__(self, events: AsyncIterator[Event], started: Event, context: Context) -> None:
        assert isinstance(started, Started)
        self.started = started
        self.context = context
        self._events = events
        self._first: Event | None = started

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            PenstockError: The stream failed.
            StopAsyncIteration: It ended with the event before.
        """
        first, self._first = self._first, None
        return first if first is not None else await anext(self._events)

    async def completion(self) -> Completion:
        """Reads the stream to its end, and returns the whole answer.

        Raises:
            PenstockError: The stream failed.
        """
        builder = CompletionBuilder()
        async with self:
            async for event in self:
                whole = builder.add(event)
                if whole is not None:
                    return whole
        raise StreamIncomplete("The stream was read before, or ended without Finished.")

    async def aclose(self) -> None:
        """Ends the request, unless its stream has ended already. Idempotent."""
        await self._events.aclose()  # type: ignore[attr-defined] # an engine's events are an async generator
        self.context.kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class CompletionModel(ABC):
    """A handle bound to one model.

    Attributes:
        name: The adapter family that the answers come through (`engine`, `handle`, `openai`, ...), for logs.
        model: Name of the model.
    """

    name: str
    model: str

    @abstractmethod
    async def chat_stream(self, request: ChatRequest, context: Context | None = None) -> ChatStream:
        """Asks; returns the stream when the answer has begun.

        Args:
            request: What is asked; its `model` is this handle's.
            context: The request's id, deadline, and the ways to end it early; None: a new one.

        Raises:
            PenstockError: A setup error: nothing was said. `retryable` and `retry_after_s` say whether and when it may
                pass. What fails later is raised by the stream.
        """

    async def chat(self, request: ChatRequest, context: Context | None = None) -> Completion:
        """The whole answer. Raises what `chat_stream` and its stream raise."""
        return await (await self.chat_stream(request, context)).completion()

    def converse(
        self, frames: AsyncIterator[Frame], context: Context | None = None
    ) -> AsyncIterator[ConversationEvent]:
        """A conversation with the model: frames in, events out, as `Engine.converse`, of which each turn is a chat.

        Args:
            frames: `Open` first, whose `model` is this handle's.
            context: Its identity, and the ways to end it early; None: a new one.

        Raises:
            InvalidRequest: The first frame is not `Open`, or its items do not fit one another.
            Cancelled: The context was killed.
        """
        return converse(_ModelEngine(self), _opened_with(self.model, frames), context or Context())


class _ModelEngine(Engine):
    """A model as an engine: what it is asked for is asked of the model."""

    def __init__(self, model: CompletionModel) -> None:
        self.name = model.name
        self.capabilities = Capabilities()
        self._model = model

    @property
    def ready(self) -> bool:
        return True

    async def start(self) -> None:
        pass

    async def stop(self, timeout_s: float = 30.0) -> None:
        pass

    async def generate(self, request: GenerateRequest, context: Context) -> AsyncIterator[Event]:
        async with await self._model.chat_stream(request, context) as stream:
            async for event in stream:
                yield event


async def _opened_with(model: str, frames: AsyncIterator[Frame]) -> AsyncIterator[Frame]:
    async for frame in frames:
        yield frame.model_copy(update={"model": model}) if isinstance(frame, Open) else frame


def bound(request: ChatRequest, model: str) -> GenerateRequest:
    """The request to that model.

    Raises:
        InvalidRequest: It is not one; names the first field that is wrong.
    """
    if isinstance(request, GenerateRequest):
        return request if request.model == model else request.model_copy(update={"model": model})
    try:
        return GenerateRequest.model_validate({**request, "model": model})
    except ValidationError as error:
        raise first_problem(error) from None


async def opened(events: AsyncIterator[Event], context: Context) -> ChatStream:
    """The stream of an engine's events, once its first one has come. Raises the setup error."""
    try:
        return ChatStream(events, await anext(events), context)
    except StopAsyncIteration:
        raise StreamIncomplete("The engine ended the stream without a word.") from None
