"""The fleet from Python, anywhere on the cluster: an engine that answers through a Serve handle.

A bare Serve handle works as well (`handle.options(stream=True).generate.remote(request)`). This adds what a handle
leaves to its caller: dropping the stream frees the engine's slot, errors are those of `engines.errors` and nothing
else, and events travel in batches.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from actors.directory.known_instance import Instance
from deployments.fleet import ModelCard
from engines.call_requests import (
    Answer,
    CallRequest,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    Tokenized,
    TokenizeRequest,
)
from engines.completion import Completion
from engines.context import Context
from engines.contract import Capabilities, Engine
from engines.errors import InstanceLost, NotReady, PenstockError
from engines.events import Event, Finished, Started, Usage
from engines.pooling_requests import Pooled, PoolingRequest, ScoreRequest, Scores
from engines.requests import GenerateRequest

T = TypeVar("T")


class FleetHandle(Engine):
    """A fleet in this Ray cluster, as one engine.

    Args:
        fleet: Name of the fleet, which is that of its Serve application; or a handle of its router deployment.
        tenant: The tenant in the fleet's file of keys for whom all calls are; None: nobody, and nothing bounds them.
    """

    def __init__(self, fleet: str | DeploymentHandle = "penstock", tenant: str | None = None) -> None:
        self.name = fleet if isinstance(fleet, str) else fleet.app_name
        self.capabilities = Capabilities(embed=True, score=True, pooling=True, tokenize=True)
        self._handle: Any = serve.get_app_handle(fleet) if isinstance(fleet, str) else fleet
        self._tenant = tenant
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether the fleet has answered once."""
        return self._ready

    async def start(self) -> None:
        """Returns when the fleet answers; its instances may still boot."""
        await self.models()
        self._ready = True

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Lets the fleet be: it is not this engine's to stop."""
        self._ready = False

    async def generate(
        self, request: GenerateRequest | Mapping[str, Any], context: Context | None = None
    ) -> AsyncIterator[Event]:
        """The events of the answer; takes a plain dict as well.

        Raises:
            PenstockError: As `Engine.generate`.
        """
        context = context or Context()
        if context.is_killed:
            raise context.cancellation()
        response = self._handle.options(stream=True).generate_batches.remote(request, context.id, self._tenant)
        batches = aiter(response)
        draft = _Draft(self.name)
        try:
            while True:
                events = await _until_stopped(anext(batches), context)
                if events is None:
                    for event in draft.cancelled():
                        yield event
                    return
                for event in events:
                    draft.add(event)
                    yield event
                    if isinstance(event, Finished):
                        return
        finally:
            # Serve and Ray go on for a reader that is gone. The context is left alone: its owner may try elsewhere.
            with suppress(DeploymentUnavailableError):  # It was never sent.
                response.cancel()

    async def complete(
        self, request: GenerateRequest | Mapping[str, Any], context: Context | None = None
    ) -> Completion:
        """A whole answer, in one call.

        Raises:
            PenstockError: As `Engine.generate`.
        """
        context = context or Context()
        completion: Completion = await self._call(context, "complete", request, context.id, self._tenant)
        return completion

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises a PenstockError where it cannot."""
        answer: Answer = await self._call(context, "call", request, context.id, self._tenant)
        return answer

    async def embed(self, request: EmbedRequest | Mapping[str, Any], context: Context | None = None) -> Embeddings:
        """One vector per input; takes a plain dict as well. Raises what `call` raises."""
        embeddings: Embeddings = await self._call(context or Context(), "embed", request, self._tenant)
        return embeddings

    async def score(self, request: ScoreRequest | Mapping[str, Any], context: Context | None = None) -> Scores:
        """How well documents fit a query; takes a plain dict as well. Raises what `call` raises."""
        scores: Scores = await self._call(context or Context(), "score", request, self._tenant)
        return scores

    async def pooling(self, request: PoolingRequest | Mapping[str, Any], context: Context | None = None) -> Pooled:
        """What a pooling model makes of inputs; takes a plain dict as well. Raises what `call` raises."""
        pooled: Pooled = await self._call(context or Context(), "pooling", request, self._tenant)
        return pooled

    async def tokenize(self, request: TokenizeRequest | Mapping[str, Any], context: Context | None = None) -> Tokenized:
        """The token ids of a text or conversation; takes a plain dict as well. Raises what `call` raises."""
        tokenized: Tokenized = await self._call(context or Context(), "tokenize", request, self._tenant)
        return tokenized

    async def detokenize(self, request: DetokenizeRequest | Mapping[str, Any], context: Context | None = None) -> str:
        """The text of token ids; takes a plain dict as well. Raises what `call` raises."""
        text: str = await self._call(context or Context(), "detokenize", request, self._tenant)
        return text

    async def models(self) -> Sequence[ModelCard]:
        """What is served."""
        cards: Sequence[ModelCard] = await self._call(Context(), "models")
        return cards

    async def instances(self) -> Sequence[Instance]:
        """Every instance that is not gone, as one router replica sees it."""
        instances: Sequence[Instance] = await self._call(Context(), "instances")
        return instances

    async def _call(self, context: Context, method: str, *args: Any) -> Any:
        if context.is_stopped:
            raise context.cancellation()
        response = getattr(self._handle, method).remote(*args)
        finished = False
        try:
            answer = await _until_stopped(response, context)
            finished = True
        finally:
            if not finished:
                with suppress(DeploymentUnavailableError):  # It was never sent.
                    response.cancel()
        if answer is None:
            raise context.cancellation()
        return answer


class _Draft:
    """What was said so far: enough to end a stream politely on this side."""

    def __init__(self, engine: str) -> None:
        self._started: Started | None = None
        self._engine = engine
        self._tokens = 0
        self._choices = 1

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started = event
            self._engine = event.engine
        elif not isinstance(event, Finished):
            self._tokens += len(getattr(event, "token_ids", ()))
            self._choices = max(self._choices, event.index + 1)

    def cancelled(self) -> list[Event]:
        prompt_tokens = (self._started.prompt_tokens or 0) if self._started is not None else 0
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=self._tokens)
        finished = Finished.cancelled(self._choices, self._engine, usage)
        return [finished] if self._started is not None else [Started(self._engine, ""), finished]


async def _until_stopped(answer: Awaitable[T], context: Context) -> T | None:
    """The answer, or None when the context was stopped first.

    Raises:
        Cancelled: The context was killed first.
        PenstockError: What the far side raised.
    """
    waiting = asyncio.ensure_future(_as_future(answer))
    stopped = asyncio.get_running_loop().create_future()

    def stop(_: Context) -> None:
        if not stopped.done():
            stopped.set_result(None)

    unsubscribe = context.on_stop(stop)
    try:
        await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if context.is_killed:
            raise context.cancellation()
        return None
    except RayTaskError as error:
        if isinstance(error.cause, PenstockError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise InstanceLost("The router replica that had the request died.") from error
    except DeploymentUnavailableError as error:
        raise NotReady("The fleet has no router now: it was taken down, or is about to come up.") from error
    finally:
        unsubscribe()
        waiting.cancel()


async def _as_future(answer: Awaitable[T]) -> T:
    return await answer
