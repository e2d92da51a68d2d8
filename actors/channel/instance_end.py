"""The instance's end of a channel: the way between one instance and one router replica.

Requests come up as ordinary actor calls, many in one; everything goes back as frames on one streaming call.
"""

import pickle
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable

from actors.admission import Gate
from actors.channel.frames import ENGINE_DIED, OF_PROMPTS, SESSIONS, Frame, News, Pulse, encode
from actors.channel.outbox import Outbox
from actors.channel.server_call import Call
from actors.channel.standing_news import StandingNews
from actors.channel.trials import Trials
from actors.channel.upstream import Message, Submission, Upstream, Upward
from actors.prefill_meter import PrefillMeter
from actors.settings import ChannelSettings
from engines.context import Context
from engines.contract import Engine, Load, Progress
from engines.errors import EngineDead, EngineFailed, InstanceLost, PenstockError, ReaderTooSlow
from engines.garbage import CollectorPaused
from engines.requests import GenerateRequest, Session

_LOST_S = 10.0
"""How long a message from the router may be overtaken by later ones before it counts as lost."""


class Host(ABC):
    """What a channel needs of the instance that it leads to.

    Attributes:
        id: The instance's id.
        gate: Its admission gate.
        engine: Its engine; only asked for while `refusal()` is None.
        prefill: Counts its prompts.
        trials: Keeps requests that may be the end of the engine apart from others.
    """

    id: str
    gate: Gate
    prefill: PrefillMeter
    trials: Trials
    engine: Engine

    @abstractmethod
    def refusal(self) -> PenstockError | None:
        """Why the instance takes no new work now, or None when it does."""

    @abstractmethod
    def load(self) -> Load:
        """How busy the instance is."""

    @abstractmethod
    def pulse(self) -> tuple[int | None, bool]:
        """The engine's steps so far, None where it cannot tell; and whether it has work."""

    @abstractmethod
    def engine_died(self, error: EngineDead) -> None:
        """The engine said that it is finished. Called once for each request that it failed."""

    @abstractmethod
    def served(self, session: Session, by: "Channel") -> None:
        """A request of a session, which came on this channel, was taken or has ended."""

    @abstractmethod
    def placed(self, prefixes: bytes, by: "Channel") -> None:
        """A prompt of these prefixes came on this channel."""

    @abstractmethod
    def tell_changes(self) -> None:
        """Tells all channels what has changed of late in what is cached, if anything has."""

    @abstractmethod
    def all_prompts(self) -> News | None:
        """What is known of all prompts that may be cached."""

    @abstractmethod
    def all_sessions(self) -> News | None:
        """Every session that was served lately, unless they are elsewhere by now."""


def _unpickled(data: bytes) -> GenerateRequest:
    with CollectorPaused():
        request: GenerateRequest = pickle.loads(data)  # noqa: S301 - both ends are workers of one Ray cluster
        return request


class Channel:
    """The instance's end of a channel.

    Args:
        host: The instance.
        settings: Window, silence, rotation.
        first: The number that its first request will have.

    Attributes:
        prompts: Tells the router what became of prompts.
        sessions: Tells it what sessions were served here.
    """

    __slots__ = (
        "_calls",
        "_is_read",
        "_missing",
        "_missing_ticks",
        "_pulse_is_due",
        "_settings",
        "_silent_ticks",
        "_upstream",
        "host",
        "outbox",
        "prompts",
        "sessions",
    )

    def __init__(self, host: Host, settings: ChannelSettings, first: int) -> None:
        self.host = host
        self.outbox = Outbox(
            settings.window, settings.pace_s, settings.unread_stream_bytes, settings.unread_bytes, self._overflow
        )
        self.prompts = StandingNews(self.outbox, OF_PROMPTS, host.all_prompts)
        self.sessions = StandingNews(self.outbox, (SESSIONS,), host.all_sessions)
        self._settings = settings
        self._upstream = Upstream(first, self._hear)
        self._calls: dict[int, Call] = {}
        self._is_read = False
        self._silent_ticks = 0
        self._missing: tuple[int, int] | None = None
        self._missing_ticks = 0
        self._pulse_is_due = False
        # The first frame says that the channel is open.
        self.outbox.nudge()

    @property
    def calls(self) -> int:
        """Requests that are under way on it."""
        return len(self._calls)

    def take(self, batch: Iterable[Upward]) -> None:
        """Takes what the router says of its requests; in whatever order it comes, each request hears it in its own."""
        self._silent_ticks = 0
        for message in batch:
            self._upstream.take(message)

    def acknowledge(self, sequence: int) -> None:
        """The router has had the frames up to this one; also its sign of life."""
        self._silent_ticks = 0
        self.outbox.acknowledge(sequence)

    def broadcast(self, news: News) -> None:
        """Sends something that the router should know."""
        self.outbox.broadcast(news)

    def engine_died(self) -> None:
        """Tells the router that the engine is finished, or hangs, and which requests had no part in that."""
        waited = [number for number, progress in self._progress() if not progress.scheduled]
        self.broadcast(News(ENGINE_DIED, waited))

    async def frames(self, after: int) -> AsyncIterator[bytes]:
        """The frames after that one, as bytes: the body of one streaming call.

        It ends at the border of a frame after `rotate_after` frames, and the next call goes on from there; or when the
        channel was closed.

        Raises:
            InstanceLost: It cannot go on from there, or another call reads it.
        """
        if self._is_read or after != self.outbox.sent:
            raise InstanceLost("The channel cannot be continued.", instance=self.host.id)
        self._silent_ticks = 0
        self.outbox.acknowledge(after)
        self._is_read = True
        try:
            for _ in range(self._settings.rotate_after):
                if not await self.outbox.ready():
                    return
                yield self._next_frame()
        finally:
            self._is_read = False

    def tick(self) -> bool:
        """Called every `heartbeat_s`: sends a sign of life, and says whether the router still gives one.

        Ticks are counted rather than seconds: a loop that stood still must not blame the router for it.
        """
        self._silent_ticks += 1
        if self._silent_ticks * self._settings.heartbeat_s >= self._settings.silence_s:
            return False
        missing = self._upstream.missing
        self._missing_ticks = self._missing_ticks + 1 if missing is not None and missing == self._missing else 0
        self._missing = missing
        if self._missing_ticks * self._settings.heartbeat_s >= _LOST_S:
            return False
        self._pulse_is_due = True
        self.outbox.nudge()
        return True

    def hand_over(self, error: PenstockError) -> None:
        """Ends every request with an error that lets it go on elsewhere."""
        for call in list(self._calls.values()):
            call.hand_over(error)

    def close(self) -> None:
        """Kills every request and ends the call that reads."""
        for call in list(self._calls.values()):
            call.kill()
        self.outbox.close()

    def forget(self, number: int) -> None:
        """A request is over."""
        self._calls.pop(number, None)
        self._upstream.forget(number)

    def _hear(self, number: int, message: Message) -> None:
        call = self._calls.get(number)
        if message == "stop":
            assert call is not None  # What is over hears nothing more.
            call.stop()
        elif message == "kill":
            assert call is not None
            call.kill()
        else:
            self._submit(number, message)

    def _submit(self, number: int, submission: Submission) -> None:
        """Takes a new request. What is wrong with it goes back as its error, in a frame."""
        context_id, data, attachments = submission
        try:
            request = _unpickled(data)
        except Exception as error:  # noqa: BLE001 - the caller waits: it must hear of it
            reason = f"The request could not be read: {type(error).__name__}: {error}"
            self.outbox.emit_urgently(number, EngineFailed(reason, instance=self.host.id))
            self._upstream.forget(number)
            return
        call = self._calls[number] = Call(self, number, request, Context(context_id), attachments, len(data))
        call.enter()

    def _overflow(self, number: int) -> None:
        call = self._calls.get(number)
        if call is not None:
            call.hand_over(ReaderTooSlow("The answer is not taken, and too much of it waited."))

    def _next_frame(self) -> bytes:
        # The end of an answer must not leave before the word that it is cached: the next prompt may come in between.
        self.host.tell_changes()
        sequence, entries, news = self.outbox.take()
        news += [item for item in (self.prompts.taken(), self.sessions.taken()) if item is not None]
        pulse = None
        if self._pulse_is_due:
            self._pulse_is_due = False
            pulse = self._pulse()
        return encode(Frame(sequence, entries, self.host.load(), news, pulse))

    def _pulse(self) -> Pulse:
        steps, is_busy = self.host.pulse()
        streams = [(number, progress.tokens, progress.scheduled) for number, progress in self._progress()]
        return Pulse(steps, is_busy, streams)

    def _progress(self) -> Iterable[tuple[int, Progress]]:
        """How far each request is of which that is known, by its number."""
        for number, call in self._calls.items():
            if (progress := call.progress()) is not None:
                yield number, progress
