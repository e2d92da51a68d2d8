"""The caller's end of a channel: an engine that stands for one instance in another process.

All requests to the instance share one streaming call. Requests go up as ordinary actor calls, those of one turn of the
event loop together; what comes down is handed to the sinks synchronously.
"""

import asyncio
import pickle
import uuid
from collections.abc import Callable
from typing import Any

from actors.calls import result, translate
from actors.channel import Cancellation, Submission
from actors.frames import DRAINING, Entry, News, decode
from actors.instance import Instance, InstanceState
from actors.ray_stream import RayStream
from actors.settings import ChannelSettings, PatienceSettings
from engines.context import Context, Unsubscribe
from engines.contract import Load, PushEngine, Sink
from engines.errors import (
    Cancelled,
    EngineFailed,
    InstanceLost,
    PenstockError,
    StreamBroken,
    Timeout,
    TimeoutPhase,
)
from engines.events import Finished, Started
from engines.requests import (
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    Tokenized,
    TokenizeRequest,
)


class _Stream:
    """One request under way: its sink, and who waits for it to start."""

    __slots__ = (
        "accepted",
        "has_spoken",
        "has_started",
        "silent_ticks",
        "sink",
        "unsubscribe_kill",
        "unsubscribe_stop",
    )

    def __init__(self, sink: Sink, accepted: asyncio.Future[None]) -> None:
        self.sink = sink
        self.accepted = accepted
        self.has_started = False
        self.has_spoken = False
        self.silent_ticks = 0
        self.unsubscribe_stop: Unsubscribe = _nothing
        self.unsubscribe_kill: Unsubscribe = _nothing


class Egress(PushEngine):
    """An instance, seen from another process.

    A channel that was lost is opened anew by the next request; when the instance is dead that request fails, too.

    Args:
        instance: The instance; `actor` must be set.
        settings: Acknowledgements, heartbeats, silence.
        on_lost: Called when the channel was lost, after its requests were failed.
        on_news: Called with each piece of news from the instance.
        patience: How long a stream, or the whole instance, may say nothing.

    Attributes:
        reported: The instance's load as it last said.
        is_draining: The instance said that it takes no new work.
    """

    def __init__(
        self,
        instance: Instance,
        settings: ChannelSettings,
        on_lost: Callable[[InstanceLost], None] | None = None,
        on_news: Callable[[News], None] | None = None,
        patience: PatienceSettings | None = None,
    ) -> None:
        self.name = instance.id
        self.capabilities = instance.capabilities
        self.reported = instance.load
        self.is_draining = instance.state is InstanceState.DRAINING
        self._actor = instance.actor
        self._settings = settings
        self._patience = patience if patience is not None else PatienceSettings()
        self._on_lost = on_lost
        self._on_news = on_news
        self._numbers = 0
        self._streams: dict[int, _Stream] = {}
        self._submissions: list[Submission] = []
        self._cancellations: list[Cancellation] = []
        self._flush_is_due = False
        self._is_closed = False
        self._channel = ""
        self._call: RayStream | None = None
        self._opened: asyncio.Future[None] | None = None
        self._received = 0
        self._acknowledged = 0
        self._received_at_tick = 0
        self._silent_ticks = 0
        self._said_nothing_ticks = 0  # Heartbeats came, and no entries.
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """Requests of this process that the instance has and that are not over."""
        return len(self._streams)

    @property
    def is_connected(self) -> bool:
        """Whether the channel is open."""
        return self._opened is not None and self._opened.done()

    @property
    def ready(self) -> bool:
        """Whether the channel is open and the instance takes work."""
        return self.is_connected and not self.is_draining

    def load(self) -> Load:
        """The instance's load as it last said."""
        return self.reported

    async def start(self) -> None:
        """Opens the channel; returns when it is open.

        Raises:
            InstanceLost: It cannot be opened.
        """
        self._open()
        assert self._opened is not None
        await asyncio.shield(self._opened)

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Closes the channel and fails what is under way on it. Does not stop the instance."""
        self._is_closed = True
        self._disconnect(InstanceLost(f"The channel to instance {self.name} was closed.", instance=self.name))

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """As `Engine.submit`; returns at `Started`. It is counted in `in_flight` before anything is awaited."""
        if context.is_killed:
            raise Cancelled("The request was cancelled.")
        data = pickle.dumps(request, 5)
        self._open()
        self._numbers += 1
        number = self._numbers
        stream = self._streams[number] = _Stream(sink, asyncio.get_running_loop().create_future())
        self._submissions.append((number, context.id, data))
        stream.unsubscribe_stop = context.on_stop(lambda context: self._stop_stream(number, context))
        stream.unsubscribe_kill = context.on_kill(lambda _: self._kill_stream(number))
        self._flush_soon()
        try:
            await stream.accepted
        except asyncio.CancelledError:
            self._kill_stream(number)
            raise

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        """As `Engine.embed`."""
        waiting = asyncio.ensure_future(result(self._actor.embed.remote(request), self.name))

        def cancel(_: Context) -> None:
            waiting.cancel()

        unsubscribe = context.on_stop(cancel)
        try:
            embeddings: Embeddings = await waiting
        except asyncio.CancelledError:
            if context.is_stopped:
                raise Cancelled("The request was cancelled.") from None
            raise
        finally:
            unsubscribe()
            waiting.cancel()
        return embeddings

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """As `Engine.tokenize`."""
        tokenized: Tokenized = await result(self._actor.tokenize.remote(request), self.name)
        return tokenized

    async def detokenize(self, request: DetokenizeRequest) -> str:
        """As `Engine.detokenize`."""
        text: str = await result(self._actor.detokenize.remote(request), self.name)
        return text

    async def check_health(self) -> None:
        """As `Engine.check_health`, asked of the instance."""
        await result(self._actor.check_health.remote(), self.name)

    async def probe(self, timeout_s: float) -> None:
        """Returns when the instance gave a token just now, to us or to others.

        Raises:
            PenstockError: It did not.
        """
        call = result(self._actor.check_health.remote(0.0, timeout_s), self.name)
        try:
            await asyncio.wait_for(call, 2 * timeout_s)
        except TimeoutError:
            raise InstanceLost(f"The instance {self.name} does not answer.", instance=self.name) from None

    # Up: requests, cancellations, acknowledgements.

    def _open(self) -> None:
        if self._is_closed:
            raise InstanceLost(f"The channel to instance {self.name} was closed.", instance=self.name)
        if self._opened is not None:
            return
        loop = asyncio.get_running_loop()
        self._channel = uuid.uuid4().hex
        self._received = self._acknowledged = self._received_at_tick = 0
        self._silent_ticks = self._said_nothing_ticks = 0
        self._opened = loop.create_future()
        # Nobody need wait for it, and an error in a future that nobody waits for is not worth a warning.
        self._opened.add_done_callback(_retrieve)
        self._timer = loop.call_later(self._settings.heartbeat_s, self._tick)
        self._read()

    def _read(self) -> None:
        """Starts the streaming call, or renews it from where the last one ended."""
        generator = self._actor.open.remote(self._channel, self._received)
        self._acknowledged = self._received
        self._call = RayStream(generator, self._on_frame, self._on_end)

    def _flush_soon(self) -> None:
        """Sends the first message of a turn of the event loop at once, and the rest of the turn's together after it."""
        # Until the first frame the far end may not know the channel; that frame flushes.
        if not self._flush_is_due and self.is_connected:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush_rest)
            self._flush()

    def _flush_rest(self) -> None:
        self._flush_is_due = False
        if self.is_connected:
            self._flush()

    def _flush(self) -> None:
        # Ray starts the calls of one caller in their order: a cancellation does not overtake its request.
        if self._submissions:
            submissions, self._submissions = self._submissions, []
            self._actor.submit.remote(self._channel, submissions)
        if self._cancellations:
            cancellations, self._cancellations = self._cancellations, []
            self._actor.cancel.remote(self._channel, cancellations)

    def _acknowledge(self) -> None:
        self._acknowledged = self._received
        self._actor.acknowledge.remote(self._channel, self._received)

    def _tick(self) -> None:
        # Ticks are counted rather than seconds: a loop that stood still must not blame the instance for it.
        self._silent_ticks = self._silent_ticks + 1 if self._received == self._received_at_tick else 0
        self._received_at_tick = self._received
        if self._silent_ticks * self._settings.heartbeat_s >= self._settings.silence_s:
            self._lose(InstanceLost(f"The instance {self.name} fell silent.", instance=self.name))
            return
        if not self._check_streams():
            return
        self._timer = asyncio.get_running_loop().call_later(self._settings.heartbeat_s, self._tick)
        self._acknowledge()

    def _check_streams(self) -> bool:
        """Fails the streams that stand still, and gives the instance up when all of it does; whether it did not."""
        self._said_nothing_ticks += 1
        period_s = self._settings.heartbeat_s
        late: list[tuple[int, Timeout]] = []
        for number, stream in self._streams.items():
            stream.silent_ticks += 1
            phase: TimeoutPhase = "between_tokens" if stream.has_spoken else "first_token"
            limit_s = self._patience.between_tokens_s if stream.has_spoken else self._patience.first_token_s
            # One that has not started may wait at the gate for its turn.
            if stream.silent_ticks * period_s <= limit_s or (self.reported.queued and not stream.has_started):
                continue
            if self._said_nothing_ticks * period_s > limit_s:
                self._lose(InstanceLost(f"The instance {self.name} hangs.", instance=self.name))
                return False
            late.append((number, Timeout(phase, limit_s).at(self.name)))
        for number, error in late:
            self._cancellations.append((number, True))
            self._fail(number, error)
        if late:
            self._flush_soon()
        return True

    def _stop_stream(self, number: int, context: Context) -> None:
        if not context.is_killed:
            self._cancellations.append((number, False))
            self._flush_soon()

    def _kill_stream(self, number: int) -> None:
        if number in self._streams:
            self._cancellations.append((number, True))
            self._flush_soon()
            self._fail(number, Cancelled("The request was cancelled."))

    # Down: frames, and the end of them.

    def _on_frame(self, data: bytes) -> None:
        frame = decode(data)
        if frame.sequence != self._received + 1:
            self._lose(InstanceLost(f"The channel to instance {self.name} lost a frame.", instance=self.name))
            return
        self._received = frame.sequence
        self.reported = frame.load
        if frame.sequence == 1:
            self._on_opened()
        for entry in frame.entries:
            stream = self._streams.get(entry[0])
            if stream is not None:  # Else it was killed here, and the far end did not know yet.
                self._deliver(stream, entry)
        for news in frame.news:
            if news.topic == DRAINING:
                self.is_draining = True
            if self._on_news is not None:
                self._on_news(news)
        # A draining instance waits for its last frames to be acknowledged.
        if self._received - self._acknowledged >= self._settings.ack_every or self.is_draining:
            self._acknowledge()

    def _deliver(self, stream: _Stream, entry: Entry) -> None:
        number, item = entry
        if isinstance(item, PenstockError):
            self._fail(number, item)
            return
        stream.silent_ticks = self._said_nothing_ticks = 0
        if item.__class__ is Started:
            stream.has_started = True
        else:
            stream.has_spoken = True
            if item.__class__ is Finished:
                self._forget(number)
        try:
            stream.sink.emit(item)
        except Exception as error:  # noqa: BLE001 - a bug in one sink must not take the others' channel down
            self._on_sink_error(number, stream, error)
        if item.__class__ is Started and not stream.accepted.done():
            stream.accepted.set_result(None)

    def _on_opened(self) -> None:
        assert self._opened is not None
        self._opened.set_result(None)
        self._flush_soon()

    def _on_end(self, error: BaseException | None) -> None:
        if error is None:
            self._read()
        else:
            lost = translate(error, self.name)
            if not isinstance(lost, StreamBroken):
                lost = InstanceLost(lost.message, instance=self.name)
            self._lose(lost)

    def _lose(self, error: PenstockError) -> None:
        lost = error if isinstance(error, InstanceLost) else InstanceLost(error.message, instance=self.name)
        self._disconnect(lost)
        if self._on_lost is not None:
            self._on_lost(lost)

    def _disconnect(self, error: InstanceLost) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._call is not None:
            self._call.close()
            self._call = None
            # Ray does not end a call whose reader is gone. To a dead actor this says nothing.
            self._actor.close.remote(self._channel)
        opened, self._opened = self._opened, None
        if opened is not None and not opened.done():
            opened.set_exception(error)
        self._submissions = []
        self._cancellations = []
        for number in list(self._streams):
            self._fail(number, error)

    def _fail(self, number: int, error: PenstockError) -> None:
        stream = self._forget(number)
        if stream.has_started:
            stream.sink.fail(error)
        elif not stream.accepted.done():
            stream.accepted.set_exception(error)

    def _forget(self, number: int) -> _Stream:
        stream = self._streams.pop(number)
        stream.unsubscribe_stop()
        stream.unsubscribe_kill()
        return stream

    def _on_sink_error(self, number: int, stream: _Stream, error: Exception) -> None:
        if number in self._streams:
            self._cancellations.append((number, True))
            self._flush_soon()
            self._forget(number)
        failed = EngineFailed(f"The answer could not be delivered: {type(error).__name__}.", instance=self.name)
        if not stream.accepted.done():
            stream.accepted.set_exception(failed)
        context: dict[str, Any] = {"message": "a sink raised", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)


def _nothing() -> None:
    return None


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
