"""The one contract: everything that can answer is an Engine.

A stream has two phases. Until the engine accepts the request, an error is a *setup error*: nothing was said, so it is
safe to try elsewhere. From the first event (`Started`) on, an error is a *stream error*. A stream has exactly one
terminal: one `Finished`, or one error. Stopping the context ends it with `Finished` and reason `cancelled`; killing it
ends it with the error `Cancelled`, at once and without what was still under way.

It comes in two forms that say the same. Pull, `generate`, is an async iterator: for callers and for operators. Push,
`submit`, hands each event to a `Sink` at the moment it exists: no task, queue or wake-up per token, which is what lets
one process carry tens of thousands of tokens a second. An engine implements one of the two (`Engine` for pull,
`PushEngine` for push) and has the other for free.

`Engine` alone means `Engine[GenerateRequest, Event]`. Engines that speak another language, such as one API's own
requests and events, say so: `Engine[MessagesRequest, MessagesEvent]`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

from engines.cached_chunks import CachedChunks
from engines.call_requests import (
    Answer,
    CallRequest,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    Tokenized,
    TokenizeRequest,
)
from engines.context import Context
from engines.conversation.converse import converse
from engines.conversation.events import ConversationEvent
from engines.conversation.frames import Frame
from engines.errors import EngineFailed, NotReady, PenstockError, StreamIncomplete, Unsupported
from engines.events import Terminal
from engines.pooling_requests import Pooled, PoolingRequest, ScoreRequest, Scores
from engines.requests import GenerateRequest
from engines.sink import EventT, Mailbox, Sink

RequestT = TypeVar("RequestT", default=GenerateRequest)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        context_length: Most tokens of prompt and answer together; 0 when unknown.
        accelerator: `cpu`, or the GPU's name as its driver says it.
        memory_bytes: Memory of the accelerators it holds; 0 on the CPU.
        score: Can say how well documents fit a query.
        pooling: Gives what it pools as it is: vectors of inputs or of their tokens, or the probabilities of classes.
        resume: Can go on from generated token ids; whether one stream can, its `Started` says.
        vision, audio, documents: Which kinds of attachments it takes.
        guided: Can be held to a schema, regex, choice or grammar.
        max_loras: How many LoRA adapters it has loaded at a time; 0: it has none.
        cache_tokens: How many tokens its KV cache holds; 0 when unknown.
        cache_block_tokens: How many of them one block holds: what fills none is not cached.
        reports_cache: Whether it says what is in there (`Engine.cached_chunks`).
    """

    generate: bool = True
    embed: bool = False
    score: bool = False
    pooling: bool = False
    tokenize: bool = False
    tools: bool = False
    reasoning: bool = False
    vision: bool = False
    audio: bool = False
    documents: bool = False
    guided: bool = False
    logprobs: bool = False
    resume: bool = False
    context_length: int = 0
    accelerator: str = "cpu"
    memory_bytes: int = 0
    max_loras: int = 0
    cache_tokens: int = 0
    cache_block_tokens: int = 1
    reports_cache: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is.

    Attributes:
        running: Requests that it works on.
        queued: Requests that wait inside it.
        kv_use: Share of its KV cache in use, 0 to 1.
        lag_s: The longest that the event loop of its process stood still lately. No part of the comparison: it is
            different every time.
        adapters: The LoRA adapters that it has loaded, by name.
        queued_tokens: Tokens of prompts that are to be computed, as far as routers can tell. Counted where requests
            come in, not by engines; so are the next two, which are no part of the comparison.
        prefill_rate: Tokens of prompts that it computes in a second, beside what else it does; 0: not known yet.
        written_tokens: Tokens put into its KV cache so far.
        prompt_tokens, cached_tokens: Tokens of the prompts that it has answered, and how many of them were cached.
        is_full: Whether requests wait for others to end, since it works on as many as it can. Counted where requests
            come in, as are the next two.
        is_asleep: Whether it must wake before it works on anything.
        wake_s: What waking takes; 0: it never sleeps.
    """

    running: int = 0
    queued: int = 0
    kv_use: float = 0.0
    lag_s: float = field(default=0.0, compare=False)
    adapters: tuple[str, ...] = ()
    queued_tokens: int = 0
    prefill_rate: float = field(default=0.0, compare=False)
    written_tokens: int = field(default=0, compare=False)
    prompt_tokens: int = field(default=0, compare=False)
    cached_tokens: int = field(default=0, compare=False)
    is_full: bool = False
    is_asleep: bool = False
    wake_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream is, whether it has anything to say or not.

    Attributes:
        tokens: Tokens of its prompt and answer computed so far, over all choices, hidden ones included. It may fall:
            what was preempted is computed again.
        scheduled: Whether the engine's steps work on it. False: it waits in the engine's own queue, or was preempted.
    """

    tokens: int
    scheduled: bool = True


Answers = Mapping[type[CallRequest[Any]], Callable[[Any, Context], Awaitable[Any]]]
"""What answers a request that takes no stream, by its type: raises a PenstockError if it cannot."""


class Engine(ABC, Generic[RequestT, EventT]):
    """Anything that answers a request with a stream of events.

    Attributes:
        name: Stable label; echoed in every terminal event, log line and metric.
        capabilities: What it can do; complete once ready.
    """

    name: str
    capabilities: Capabilities

    @property
    def steps(self) -> int | None:
        """Grows as it works, also when no event comes of it, as with a long prompt; None where that cannot be told."""
        return None

    @property
    def slots(self) -> int | None:
        """How many choices one of its steps works on at most; None where it does not say. Known once it is ready."""
        return None

    @property
    def cached_chunks(self) -> CachedChunks | None:
        """What it has in its KV cache; None where it does not say. Known once it is ready."""
        return None

    def progress(self, context: Context) -> Progress | None:
        """How far the stream of this context is, as far as known now; None where that cannot be told.

        Cheap: asked at every heartbeat for each stream that has said nothing since the last one. With `steps` it is
        all that a stream or an engine is judged by: an engine hangs when it has work and takes no step, a stream when
        the engine steps, works on it, and its progress does not change.
        """
        return None

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether it has finished booting, and has not died or stopped since."""

    @abstractmethod
    async def start(self) -> None:
        """Boots. Returns when ready.

        Raises:
            PenstockError: It cannot boot; the message says why and what to do.
        """

    @abstractmethod
    async def stop(self, timeout_s: float = 30.0) -> None:
        """Releases everything (memory, child processes) within the deadline. Idempotent."""

    async def sleep(self, level: int) -> None:
        """Gives up what memory of its accelerator it can, and what it has cached, until it is woken.

        Called only while it has no work, and it gets none before it was woken. It goes on to say how it is, and to
        tokenize.

        Args:
            level: 1: its weights are kept in the machine's memory; 2: they are dropped, and loaded again.

        Raises:
            Unsupported: It cannot sleep.
            PenstockError: It could not; what is left of it nobody knows.
        """
        raise Unsupported(f"The engine {self.name} cannot sleep.", param="sleep")

    async def wake(self) -> None:
        """Returns when it can work again after `sleep`.

        Raises:
            Unsupported: It cannot sleep.
            PenstockError: It could not; what is left of it nobody knows.
        """
        raise Unsupported(f"The engine {self.name} cannot sleep.", param="sleep")

    @abstractmethod
    def generate(self, request: RequestT, context: Context) -> AsyncIterator[EventT]:
        """Answers with a stream of events.

        Dropping the iterator (`aclose`, or the garbage collector) kills the context.

        Raises:
            PenstockError: From the first `anext`, a setup error; from a later one, a stream error.
        """

    async def submit(self, request: RequestT, context: Context, sink: Sink[EventT]) -> None:
        """Answers into a sink. Returns once the request is accepted; `Started` may come before or after that.

        Raises:
            PenstockError: Setup error; the sink was not called and will not be.
        """
        events = self.generate(request, context)
        first = await _first(events, self.name)
        task = asyncio.get_running_loop().create_task(_pump(first, events, self.name, sink))
        _pumps.add(task)
        task.add_done_callback(_pumps.discard)

    @property
    def answers(self) -> Answers:
        """What `call` answers each type of request with; an engine that passes calls on overrides `call` instead."""
        return {}

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream.

        Raises:
            Unsupported: It does not answer this type of request.
            PenstockError: It could not.
        """
        answer = self.answers.get(type(request))
        if answer is None:
            raise unsupported(request)
        result: Answer = await answer(request, context)
        return result

    async def embed(self, request: EmbedRequest, context: Context | None = None) -> Embeddings:
        """One vector per input; raises what `call` raises."""
        return await self.call(request, context or Context())

    async def score(self, request: ScoreRequest, context: Context | None = None) -> Scores:
        """How well each document fits its query; raises what `call` raises."""
        return await self.call(request, context or Context())

    async def pooling(self, request: PoolingRequest, context: Context | None = None) -> Pooled:
        """What a pooling model makes of each input; raises what `call` raises."""
        return await self.call(request, context or Context())

    async def tokenize(self, request: TokenizeRequest, context: Context | None = None) -> Tokenized:
        """The token ids of a text or conversation; raises what `call` raises."""
        return await self.call(request, context or Context())

    async def detokenize(self, request: DetokenizeRequest, context: Context | None = None) -> str:
        """The text of token ids; raises what `call` raises."""
        return await self.call(request, context or Context())

    def converse(self: "Engine", frames: AsyncIterator[Frame], context: Context) -> AsyncIterator[ConversationEvent]:
        """Answers a stream of input frames with a stream of events, turn after turn.

        Each turn is a request that goes through `submit`: so every engine that generates can converse, and what an
        operator does to requests it does to turns. Dropping the iterator kills what runs.

        Args:
            frames: `Open` first; their end is the conversation's, after its last turn.
            context: Its identity. Stopping it ends what runs, and the conversation, with `Finished`.

        Raises:
            InvalidRequest: The first frame is not `Open`, or its items do not fit one another.
            Cancelled: The context was killed.
        """
        return converse(self, frames, context)

    def load(self) -> Load:
        """How busy it is now; cheap, called for every frame."""
        return Load()

    async def check_health(self) -> None:
        """Returns when it can work.

        Raises:
            NotReady: It still boots.
            EngineDead: It is finished.
        """
        if not self.ready:
            raise NotReady(f"The engine {self.name} is not ready.")


def unsupported(request: CallRequest[Any]) -> Unsupported:
    """What an engine says that does not answer this type of request."""
    return Unsupported(f"The model {request.model!r} does not {request.purpose}.", param="model")


class PushEngine(Engine[RequestT, EventT]):
    """An engine that pushes: implements `submit`, and gets `generate` from it."""

    @abstractmethod
    async def submit(self, request: RequestT, context: Context, sink: Sink[EventT]) -> None:
        """Answers into a sink; returns once the request is accepted. Raises a PenstockError before that."""

    async def generate(self, request: RequestT, context: Context) -> AsyncIterator[EventT]:
        """The events of the answer; a PenstockError of the first `anext` is a setup error, a later one the stream's."""
        inner = Context(context.id)
        unlink = context.link(inner)
        mailbox = Mailbox[EventT]()
        try:
            await self.submit(request, inner, mailbox)
            while True:
                event = await mailbox.get()
                yield event
                if isinstance(event, Terminal):
                    return
        finally:
            unlink()
            inner.kill()  # A stream that ended already takes no notice.


_pumps: set[asyncio.Task[None]] = set()
"""The running pumps: the event loop itself keeps only weak references to tasks."""


async def _first(events: AsyncIterator[EventT], engine: str) -> EventT:
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise StreamIncomplete(f"The engine {engine} ended the stream without a word.") from None


async def _pump(first: EventT, events: AsyncIterator[EventT], engine: str, sink: Sink[EventT]) -> None:
    sink.emit(first)
    try:
        async with aclosing(events) as rest:  # type: ignore[type-var]
            async for event in rest:
                sink.emit(event)
                if isinstance(event, Terminal):
                    return
    except PenstockError as error:
        sink.fail(error)
    except Exception as error:  # noqa: BLE001 - the sink's owner waits: it must hear of a bug, too
        sink.fail(EngineFailed(f"The engine {engine} failed: {type(error).__name__}: {error}"))
    else:
        sink.fail(StreamIncomplete(f"The engine {engine} ended the stream without Finished."))
