"""The caller's end of a channel: an engine that stands for one instance in another process.

All requests to the instance share one streaming call. Requests go up as ordinary actor calls, those of one turn of the
event loop together; what comes down is handed to the sinks synchronously.
"""

import asyncio
import math
import pickle
import time
import uuid
from collections.abc import Collection
from typing import Any

from ray.exceptions import RayActorError

from actors.channel.calls import result, translate
from actors.channel.carriage import carried, put_large
from actors.channel.frames import DRAINING, ENGINE_DIED, TRIED, Entry, Pulse, decode
from actors.channel.listener import Listener
from actors.channel.open_stream import OpenStream
from actors.channel.pending_calls import PendingCalls
from actors.channel.ray_stream import RayStream
from actors.channel.upstream import Message, Upward
from actors.directory.known_instance import Instance, InstanceState
from actors.settings import ChannelSettings, PatienceSettings
from engines.call_requests import Answer, CallRequest, Request
from engines.context import Context
from engines.contract import Load, PushEngine
from engines.errors import Cancelled, EngineFailed, InstanceLost, PenstockError, Timeout
from engines.events import Finished, Started
from engines.garbage import CollectorPaused
from engines.requests import GenerateRequest
from engines.sink import Sink

_STALLED_PULSES = 3
"""Heartbeats without a step after which an engine with work is the last choice for more."""


class Egress(PushEngine):
    """An instance, seen from another process.

    A channel that was lost is opened anew by the next request; when the instance is dead that request fails, too.

    Args:
        instance: The instance; `actor` must be set.
        settings: Acknowledgements, heartbeats, silence.
        listener: Hears what becomes of the channel; None: nobody does.
        patience: How long an engine, or a stream, may make no progress.

    Attributes:
        reported: The instance's load as it last said.
        is_draining: The instance said that it takes no new work.
        heard_s: When it last said anything, on the monotonic clock.
        spoke_s: When its engine last said something of a request.
        waiting_tokens: Of the prompts that this process has sent there and that have got no token yet.
    """

    def __init__(
        self,
        instance: Instance,
        settings: ChannelSettings,
        listener: Listener | None = None,
        patience: PatienceSettings | None = None,
    ) -> None:
        self.name = instance.id
        self.capabilities = instance.capabilities
        self.reported = instance.load
        self.is_draining = instance.state is InstanceState.DRAINING
        self.heard_s = 0.0
        self.spoke_s = 0.0
        self._actor = instance.actor
        self._settings = settings
        self._listener = listener
        self._stall_s = (patience if patience is not None else PatienceSettings()).stall_s
        self._stall_pulses = self._stall_s / settings.heartbeat_s
        self._numbers = 0
        self._streams: dict[int, OpenStream] = {}
        self._in_flight = 0
        self.waiting_tokens = 0
        self._upward: list[Upward] = []
        self._calls = PendingCalls(instance.id)
        self._flush_is_due = False
        self._is_closed = False
        self._channel = ""
        self._first = 0  # Number of the channel's first stream.
        self._call: RayStream | None = None
        self._opened: asyncio.Future[None] | None = None
        self._received = 0
        self._acknowledged = 0
        self._received_at_tick = 0
        self._silent_ticks = 0
        self._steps: int | None = None
        self._still_pulses = 0  # In which the engine had work, and took no step.
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_stalled(self) -> bool:
        """Whether its engine has had work and taken no step for some heartbeats: what is sent there may wait long."""
        return self._still_pulses >= _STALLED_PULSES

    @property
    def in_flight(self) -> int:
        """Requests of this process that the instance has and that are not over; one for n choices counts as n."""
        return self._in_flight

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
        """Answers into a sink; returns at `Started`. It is counted in `in_flight` before anything is awaited."""
        if context.is_killed:
            raise Cancelled("The request was cancelled.")
        if request.attachments:
            await self._upload(request, context)
        # Attachments travel beside the request: pickled into it they would be copied at both ends.
        bare = request.model_copy(update={"attachments": []}) if request.attachments else request
        with CollectorPaused():
            data = pickle.dumps(bare, 5)
        self._open()
        self._numbers += 1
        number = self._numbers
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stream = self._streams[number] = OpenStream(sink, request, accepted, came_late=self._still_pulses > 1)
        self._in_flight += stream.weight
        self.waiting_tokens += stream.waiting_tokens
        self._say(number, stream, (context.id, data, carried(request.attachments)))
        stream.unsubscribe_stop = context.on_stop(lambda context: self._stop_stream(number, context))
        stream.unsubscribe_kill = context.on_kill(lambda _: self._kill_stream(number))
        try:
            await stream.accepted
        except asyncio.CancelledError:
            self._kill_stream(number)
            raise

    async def _upload(self, request: GenerateRequest, context: Context) -> None:
        """Puts what is large where the instance finds it.

        Meanwhile the request is counted, and has no number yet: the instance waits for each that has one.
        """
        self._in_flight += request.sampling.n
        self.waiting_tokens += request.prefill_tokens or 0
        try:
            await put_large(request.attachments)
        finally:
            self._in_flight -= request.sampling.n
            self.waiting_tokens -= request.prefill_tokens or 0
        if context.is_killed:
            raise Cancelled("The request was cancelled.")

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream; ends with the channel, if that is lost first."""
        with CollectorPaused():
            call = self._actor.call.remote(request)
        answer: Answer = await self._calls.answer(request, call, context, self._on_call_lost)
        return answer

    async def check_health(self) -> None:
        """Returns when the instance says that it can work; raises what it says otherwise."""
        await result(self._actor.check_health.remote(), self.name)

    async def probe(self, timeout_s: float) -> None:
        """Returns when the instance gave a token just now, to us or to others.

        Raises:
            PenstockError: It did not.
        """
        try:
            async with asyncio.timeout(2 * timeout_s):
                await result(self._actor.check_health.remote(0.0, timeout_s), self.name)
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
        self._first = self._numbers + 1
        self._received = self._acknowledged = self._received_at_tick = 0
        self._silent_ticks = self._still_pulses = 0
        self._steps = None
        self._opened = loop.create_future()
        # Nobody need wait for it, and an error in a future that nobody waits for is not worth a warning.
        self._opened.add_done_callback(_retrieve)
        self._timer = loop.call_later(self._settings.heartbeat_s, self._tick)
        self._read()

    def _read(self) -> None:
        """Starts the streaming call, or renews it from where the last one ended."""
        generator = self._actor.open.remote(self._channel, self._received, self._first)
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
        if self._upward:
            upward, self._upward = self._upward, []
            self._actor.send.remote(self._channel, upward)

    def _say(self, number: int, stream: OpenStream, message: Message) -> None:
        """Says the next thing of a stream."""
        self._upward.append((number, stream.places, message))
        stream.places += 1
        self._flush_soon()

    def _acknowledge(self) -> None:
        self._acknowledged = self._received
        self._actor.acknowledge.remote(self._channel, self._received)

    def _tick(self) -> None:
        # Ticks are counted rather than seconds: a loop that stood still must not blame the instance for it.
        self._silent_ticks = self._silent_ticks + 1 if self._received == self._received_at_tick else 0
        self._received_at_tick = self._received
        if self._silent_ticks * self._settings.heartbeat_s >= self._settings.silence_s:
            silent = InstanceLost(f"The instance {self.name} fell silent.", instance=self.name).because("silent")
            self._lose(silent, is_dead=False)
            return
        self._timer = asyncio.get_running_loop().call_later(self._settings.heartbeat_s, self._tick)
        self._acknowledge()

    def _stop_stream(self, number: int, context: Context) -> None:
        stream = self._streams.get(number)
        if stream is not None and not context.is_killed:
            self._say(number, stream, "stop")

    def _kill_stream(self, number: int) -> None:
        self._give_up(number, Cancelled("The request was cancelled."))

    def _give_up(self, number: int, error: PenstockError) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            self._say(number, stream, "kill")
            self._fail(number, error)

    # Down: frames, and the end of them.

    def _on_frame(self, data: bytes) -> None:
        frame = decode(data)
        if frame.sequence != self._received + 1:
            self._lose(
                InstanceLost(f"The channel to instance {self.name} lost a frame.", instance=self.name), is_dead=False
            )
            return
        self._received = frame.sequence
        self.heard_s = time.monotonic()
        self.reported = frame.load
        if frame.sequence == 1:
            self._on_opened()
        for entry in frame.entries:
            stream = self._streams.get(entry[0])
            if stream is not None:  # Else it was killed here, and the far end did not know yet.
                self._deliver(stream, entry)
        for news in frame.news:
            if news.topic == ENGINE_DIED:
                died = InstanceLost(f"The engine of instance {self.name} died.", instance=self.name)
                self._lose(died.because("died"), waited=news.body)
                return
            if news.topic == DRAINING:
                self.is_draining = True
            if news.topic == TRIED and (tried := self._streams.get(news.body)) is not None:
                tried.is_held_for_trial = False
                self._acknowledge()  # It waits for that.
            if self._listener is not None:
                self._listener.heard(news)
        if frame.entries:
            self.spoke_s = self.heard_s
        if frame.pulse is not None:
            self._on_pulse(frame.pulse)
        # A draining instance waits for its last frames to be acknowledged.
        if self._received - self._acknowledged >= self._settings.ack_every or self.is_draining:
            self._acknowledge()

    def _deliver(self, stream: OpenStream, entry: Entry) -> None:
        number, item = entry
        if isinstance(item, PenstockError):
            self._fail(number, item)
            return
        stream.still_pulses = 0
        if item.__class__ is not Started:
            if stream.request is not None:
                self._has_begun(stream)
            if item.__class__ is Finished:
                self._forget(number)
            else:
                self._still_pulses = 0  # Before the next pulse says so: it came of a step.
        elif not stream.has_started:
            stream.start(item)
        try:
            stream.sink.emit(item)
        except Exception as error:  # noqa: BLE001 - a bug in one sink must not take the others' channel down
            self._on_sink_error(number, stream, error)
        if item.__class__ is Started and not stream.accepted.done():
            stream.accepted.set_result(None)

    def _has_begun(self, stream: OpenStream) -> None:
        """A stream has got its first token, or ended."""
        stream.request = None
        self.waiting_tokens -= stream.waiting_tokens
        stream.waiting_tokens = 0

    def _on_pulse(self, pulse: Pulse) -> None:
        """Judges the engine and the streams by what they did since the last heartbeat, and by nothing else."""
        has_stepped, self._steps = pulse.steps != self._steps, pulse.steps
        must_step = pulse.is_busy and pulse.steps is not None
        if has_stepped:
            self._still_pulses = 0
        elif must_step:  # Where its work has gone without a step, that says nothing.
            self._still_pulses += 1
        if self._still_pulses >= self._stall_pulses:
            hung = InstanceLost(f"The instance {self.name} hangs.", instance=self.name).because("hung")
            self._lose(hung, has_hung=True)
            return
        told = {number: (tokens, is_scheduled) for number, tokens, is_scheduled in pulse.streams}
        stalled: list[int] = []
        for number, stream in self._streams.items():
            before = stream.progress
            stream.hear(told.get(number))
            if stream.progress is not None and stream.progress[0] > (stream.tokens_at_start or math.inf):
                self._has_begun(stream)
            if stream.progress is not None and (stream.progress != before or not stream.progress[1]):
                stream.still_pulses = 0
            elif has_stepped or not must_step:
                stream.still_pulses += 1
                if stream.still_pulses > self._stall_pulses:
                    stalled.append(number)
        for number in stalled:
            error = Timeout("stall", self._stall_s).at(self.name)
            if self._listener is not None:
                self._listener.stalled(error)
            self._give_up(number, error)

    def _suspects(self, *, has_hung: bool, waited: Collection[int] | None) -> list[Request]:
        """The requests that the instance may have been working on and that have got nothing from it."""
        may_be = {number: stream for number, stream in self._streams.items() if not stream.is_held_for_trial}
        if waited is None:
            streams = [stream.suspect(has_hung=has_hung) for stream in may_be.values()]
        else:
            streams = [stream.request for number, stream in may_be.items() if number not in waited]
        return [*(request for request in streams if request is not None), *self._calls.requests]

    def _on_opened(self) -> None:
        assert self._opened is not None
        self._opened.set_result(None)
        self._flush_soon()

    def _on_end(self, error: BaseException | None) -> None:
        if error is None:
            self._read()
        else:
            self._lose(translate(error, self.name), is_dead=isinstance(error, RayActorError))

    def _on_call_lost(self, error: InstanceLost) -> None:
        if self._opened is not None:
            self._lose(error)

    def _lose(
        self,
        error: PenstockError,
        *,
        is_dead: bool = True,
        has_hung: bool = False,
        waited: Collection[int] | None = None,
    ) -> None:
        lost = error
        if not isinstance(lost, InstanceLost):
            lost = InstanceLost(error.public, instance=self.name).hiding(error.private)
        if self._listener is not None:
            self._listener.lost(lost, self._suspects(has_hung=has_hung, waited=waited), is_dead=is_dead)
        self._disconnect(lost)

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
        self._upward = []
        self._calls.fail(error)
        for number in list(self._streams):
            self._fail(number, error)

    def _fail(self, number: int, error: PenstockError) -> None:
        self._forget(number).fail(error)

    def _forget(self, number: int) -> OpenStream:
        stream = self._streams.pop(number)
        self._in_flight -= stream.weight
        self._has_begun(stream)
        stream.unsubscribe_stop()
        stream.unsubscribe_kill()
        return stream

    def _on_sink_error(self, number: int, stream: OpenStream, error: Exception) -> None:
        if number in self._streams:
            self._say(number, stream, "kill")
            self._forget(number)
        failed = EngineFailed(f"The answer could not be delivered: {type(error).__name__}.", instance=self.name)
        if not stream.accepted.done():
            stream.accepted.set_exception(failed)
        context: dict[str, Any] = {"message": "a sink raised", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
