"""A remote engine: what all of them do alike, whichever API they speak."""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from engines.attachments.beside import with_data_inside
from engines.call_requests import CallRequest
from engines.context import Context
from engines.contract import Capabilities, Load, PushEngine, unsupported
from engines.errors import (
    Cancelled,
    InstanceLost,
    NotReady,
    PenstockError,
    ProviderRefused,
    QueueFull,
    Timeout,
    Unsupported,
)
from engines.events import Finished, Started
from engines.registry import EngineSpec
from engines.remote.failures import Asked
from engines.remote.http_client import HttpClient
from engines.remote.keys import KeySource
from engines.remote.options import RemoteOptions
from engines.remote.stream import RemoteStream, StreamReader
from engines.remote.token_rate import TokenRate
from engines.remote.transport import Transport
from engines.requests import GenerateRequest
from engines.sink import Sink

Result = TypeVar("Result")

_LOOK_S = 10.0
"""What asking for the models may take: a process that starts waits for it."""


class RemoteEngine(PushEngine):
    """An engine whose model runs behind the API of another server.

    Args:
        name: Its name.
        spec: What the registry makes it from.
        options: Its options.
        defaults: What it can do unless the options say otherwise.
        transport: What its API has below the events.
    """

    def __init__(
        self,
        name: str,
        spec: EngineSpec,
        options: RemoteOptions,
        defaults: Capabilities,
        transport: Transport | None = None,
    ) -> None:
        self.name = name
        self._served_as = spec.model
        self.capabilities = options.capabilities.over(replace(defaults, accelerator="remote"))
        self._model = options.model or spec.model
        self._base_url = options.base_url
        self._extra_body = options.extra_body
        self._max_concurrent = options.max_concurrent
        self._keys = KeySource(options.api_key_env, options.api_key_file)
        self._transport = transport or Transport()
        self._client = HttpClient(name, options, self._headers, self._transport)
        self._streams: set[RemoteStream] = set()
        self._running = 0
        self._rate = TokenRate(name, options.max_tokens_per_minute)

    @property
    def ready(self) -> bool:
        """Whether it was started, and not stopped since. That the server answers is another matter."""
        return self._client.is_open

    async def start(self) -> None:
        """Returns when requests may be sent. A server that does not answer now may do so later.

        Raises:
            ProviderRefused: There is no API key, or the server refuses it.
            EngineFailed: Something that it needs is not on this machine.
        """
        self._keys.key()
        await self._transport.open()
        self._client.open()
        try:
            await self._look()
        except ProviderRefused:
            await self._client.close()
            await self._transport.close()
            raise
        except PenstockError:
            # Each request finds out for itself: a router must not wait for somebody else's server.
            return

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Stops at once; what is under way ends with InstanceLost."""
        streams = list(self._streams)
        for stream in streams:
            stream.fail(InstanceLost(f"The engine {self.name} was stopped."))
        if streams:
            await asyncio.wait([asyncio.ensure_future(stream.ended()) for stream in streams], timeout=timeout_s)
        await self._client.close()
        await self._transport.close()

    async def check_health(self) -> None:
        """Returns when the server answers; at once where nothing can be asked for free.

        Raises:
            NotReady: It was not started.
            PenstockError: The server does not answer, or refuses the API key.
        """
        self._must_be_ready()
        await self._look()

    def load(self) -> Load:
        """How many requests are under way; nothing is known of a queue at the server."""
        return Load(running=self._running)

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the server has begun to answer. Raises a PenstockError before that."""
        self._must_be_ready()
        if not self.capabilities.generate:
            raise Unsupported(f"The model {request.model!r} does not generate text.", param="model")
        if request.resume is not None and not request.resume.is_empty:
            raise Unsupported("A remote model cannot go on from token ids.", param="resume")
        if context.is_killed:
            raise context.cancellation().at(self.name)
        if request.model != self._served_as:
            # It came by an alias, or through a model that is made of others.
            request = request.model_copy(update={"model": self._served_as})
        url, body = self._question(await with_data_inside(request))
        body = {name: value for name, value in {**body, **self._extra_body}.items() if value is not None}
        asked = self._asked(request.kind)
        if context.is_stopped:
            sink.emit(Started(self.name, request.model))
            sink.emit(Finished.cancelled(request.sampling.n, self.name))
            return
        self._take_slot()
        reader = self._reader(request, asked)

        def on_over() -> None:
            self._rate.spend(reader.usage.prompt_tokens + reader.usage.completion_tokens)
            self._free_slot()

        stream = RemoteStream(self.name, request, context, sink, reader, on_over)
        self._streams.add(stream)
        await stream.run(self._client, self._transport.parser(), url, body, asked, self._streams.discard)

    @abstractmethod
    def _headers(self, key: str | None) -> Mapping[str, str]:
        """The headers that every request carries."""

    @abstractmethod
    def _question(self, request: GenerateRequest) -> tuple[str, Mapping[str, Any]]:
        """Where a request goes, and its body; raises Unsupported where the server cannot take a field of it."""

    @abstractmethod
    def _reader(self, request: GenerateRequest, asked: Asked) -> StreamReader:
        """What reads the answer to a request."""

    @abstractmethod
    def _our_param(self, theirs: str) -> str | None:
        """Our name of a field of the server's."""

    @property
    def _models_url(self) -> str:
        """Where the server lists its models, which costs nothing to ask."""
        return f"{self._base_url}/models"

    def _learn(self, models: Any) -> None:
        """Takes from the list of models what it tells of ours."""

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                models = await self._client.get(self._models_url, self._asked())
        except TimeoutError:
            raise Timeout("total", _LOOK_S).at(self.name) from None
        except ProviderRefused as error:
            if error.reason != "unknown_model":
                raise
            return  # Not every server has that route.
        self._learn(models)

    def _asked(self, param: str | None = None) -> Asked:
        return Asked(
            engine=self.name,
            param=param,
            our_param=self._our_param,
            context_length=self.capabilities.context_length,
            secret=self._keys.key(),
        )

    async def _call(self, request: CallRequest[Any], context: Context, work: Callable[[], Awaitable[Result]]) -> Result:
        """Does what is no stream; cancelled with its context.

        Raises:
            Unsupported: The model does not do it.
            QueueFull: Too many requests are under way.
            RateLimited: The tokens of this minute are used up.
            Cancelled: Its context was stopped.
        """
        self._must_be_ready()
        if not getattr(self.capabilities, request.capability):
            raise unsupported(request)
        if context.is_stopped:
            raise context.cancellation().at(self.name)
        self._take_slot()
        try:
            return await context.unless_stopped(work())
        except Cancelled as error:
            raise error.at(self.name) from None
        finally:
            self._free_slot()

    def _take_slot(self) -> None:
        self._rate.check()
        if self._running >= self._max_concurrent:
            raise QueueFull(
                f"The model takes {self._max_concurrent} requests at a time, and they are under way.",
                instance=self.name,
            )
        self._running += 1

    def _free_slot(self) -> None:
        self._running -= 1

    def _must_be_ready(self) -> None:
        if not self.ready:
            raise NotReady(f"The engine {self.name} is not ready.", instance=self.name)
