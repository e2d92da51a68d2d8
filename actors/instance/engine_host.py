"""What an engine actor does, without Ray: one engine behind one gate, with a channel for each router replica."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from importlib import import_module

from pydantic import ValidationError

from actors.admission import Gate
from actors.channel.frames import ALL_CHUNKS, ALL_PREFIXES, CHUNKS, DRAINING, PREFIXES, SESSIONS, News
from actors.channel.instance_end import Channel, Host
from actors.channel.trials import Trials
from actors.channel.upstream import Upward
from actors.daemon_thread import in_daemon_thread
from actors.directory.known_instance import Instance, InstanceState
from actors.instance.canary import ask_one_token
from actors.instance.engine_steps import EngineSteps
from actors.instance.lane import Lane
from actors.instance.sessions import Sessions
from actors.instance.sleeper import Sleeper
from actors.loop_lag import LoopLag
from actors.patience import within
from actors.prefill_meter import PrefillMeter
from actors.sent_prefixes import SentPrefixes
from actors.settings import AdmissionSettings, ChannelSettings, SleepSettings
from engines.cached_chunks import CachedChunks
from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.contract import Load
from engines.errors import (
    Draining,
    EngineDead,
    EngineFailed,
    InstanceLost,
    InvalidRequest,
    NotReady,
    PenstockError,
    Timeout,
)
from engines.prefix_chunks import pack, pack_held
from engines.registry import EngineSpec, engine_kind, make_engine
from engines.requests import Session

_FLUSH_S = 2.0
"""What the last frames get to reach the routers when the instance ends."""
_LOST_S = 2.0
"""What the rest of an engine gets to end that has lost a part."""
_POLL_S = 0.02
"""Draining looks so often whether it is over; it is rare, and so costs a request under way nothing."""


class EngineHost(Host):
    """One engine behind one gate, with a channel for each router replica.

    Args:
        instance: The instance as it begins: id, model, node, incarnation, actor, pid.
        spec: What its engine is made from.
        admission: How much work it takes.
        channel: How its channels behave.
        on_change: Called when `describe()` has something new to say.
        sleep: When the engine sleeps; None: never.
    """

    def __init__(
        self,
        instance: Instance,
        spec: EngineSpec,
        admission: AdmissionSettings,
        channel: ChannelSettings,
        on_change: Callable[[], None],
        sleep: SleepSettings | None = None,
    ) -> None:
        self.id = instance.id
        self.gate = Gate(admission)
        self.prefill = PrefillMeter()
        self.trials = Trials()
        # What was sent here, where the engine does not say what it has cached.
        self._prefixes = SentPrefixes()
        self._chunks: CachedChunks | None = None
        self._changes = 0
        self._cached: dict[int, int] = {}
        self._evicted: list[int] = []
        self._texts = Lane(admission.texts)
        self._embeddings = Lane(admission.embeddings)
        self._instance = replace(instance, state=InstanceState.STARTING, since_s=time.time())
        self._spec = spec
        self._channel_settings = channel
        self._on_change = on_change
        self._channels: dict[str, Channel] = {}
        self._sessions = Sessions()
        self._lag = LoopLag()
        self._ticker: asyncio.Task[None] | None = None
        self._steps = EngineSteps(channel.heartbeat_s)
        self._sleeper = Sleeper(sleep, channel.heartbeat_s, self._forget_cached, self.engine_died)
        self._booting: asyncio.Task[None] | None = None
        self._has_booted = False

    @property
    def state(self) -> InstanceState:
        """Where the instance is in its life."""
        return self._instance.state

    def describe(self) -> Instance:
        """The instance as it is now."""
        instance = self._instance
        if instance.state is InstanceState.STARTING:
            return replace(instance, detail=f"boots, {time.time() - instance.since_s:.0f} s so far")
        return replace(instance, load=self.load())

    async def boot(self) -> None:
        """Makes the engine and starts it; returns when it is ready, or drains, if it was asked to meanwhile.

        Raises:
            PenstockError: It cannot boot, or was stopped meanwhile.
        """
        stopped = EngineFailed(f"The instance {self.id} was stopped while it booted.", instance=self.id)
        if self._instance.state is InstanceState.GONE:
            raise stopped
        booting = self._booting = asyncio.get_running_loop().create_task(self._start_engine())
        try:
            await booting
        except asyncio.CancelledError:
            if self._booting is None:
                raise stopped from None
            if self.state is InstanceState.GONE:
                raise EngineFailed(self._instance.detail, instance=self.id) from None
            raise
        except Exception as error:
            failure = _boot_failure(self._spec, error)
            self._become(InstanceState.GONE, failure.message)
            raise failure.at(self.id) from error
        if self._booting is None:
            raise stopped
        self._instance = replace(self._instance, capabilities=self.engine.capabilities)
        self._has_booted = True
        self._prefixes = SentPrefixes(self.engine.capabilities.cache_tokens)
        self._chunks = self.engine.cached_chunks
        if self._chunks is not None:
            self._chunks.listen(self._hear_chunks)
        self.gate.fit(self.engine.slots)
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        self._lag.start()
        self._become(InstanceState.READY if self._instance.state is InstanceState.STARTING else self._instance.state)

    # What a channel needs.

    def refusal(self) -> PenstockError | None:
        """Why it takes no new work now, or None when it does."""
        match self._instance.state:
            case InstanceState.READY:
                return None
            case InstanceState.STARTING:
                return NotReady(f"The instance {self.id} still boots.", instance=self.id)
            case InstanceState.DRAINING:
                return Draining(f"The instance {self.id} takes no new work.", instance=self.id)
            case InstanceState.GONE:
                return InstanceLost(f"The instance {self.id} is gone.", instance=self.id)

    def load(self) -> Load:
        """How busy it is: who was admitted and who waits, wherever, and the engine's own KV use and adapters."""
        if self._instance.state is InstanceState.GONE or not self._has_booted:
            return Load()
        engine = self.engine.load()
        running = self.gate.running + self._embeddings.running
        waiting_inside = min(engine.queued, running)
        queued = self.gate.queued + self._embeddings.queued
        lag_s = self._lag.longest_s()
        prefill = self.prefill
        return Load(
            running - waiting_inside,
            queued + waiting_inside,
            engine.kv_use,
            lag_s,
            engine.adapters,
            prefill.waiting_tokens,
            prefill.rate,
            prefill.written_tokens,
            prefill.prompt_tokens,
            prefill.cached_tokens,
            queued > 0,
            not self._sleeper.is_awake,
            self._sleeper.wake_s,
        )

    def engine_died(self, error: EngineDead) -> None:
        """The engine is finished, and so is the instance."""
        if self._instance.state is not InstanceState.GONE:
            self._become(InstanceState.GONE, error.message)
            # In one word, and not request by request: all of them have died of one cause.
            self._tell_of_death()
            died = InstanceLost(f"The engine of instance {self.id} died.", instance=self.id).because("died")
            for waiting in (self.gate, self._embeddings, self._texts):
                waiting.clear(died)

    async def lose(self, error: EngineDead) -> None:
        """A part of the engine is gone: so is the instance, and the rest of the engine is ended, which may hang."""
        self.engine_died(error)
        if self._has_booted:
            await self.engine.stop(_LOST_S)
        elif self._booting is not None:
            self._booting.cancel()

    def pulse(self) -> tuple[int | None, bool]:
        """The engine's steps so far, None where it cannot tell; and whether it has work."""
        if self._instance.state is InstanceState.GONE or not self._has_booted:
            return None, False
        load = self.engine.load()
        return self.engine.steps, load.running + load.queued > 0

    def served(self, session: Session, by: Channel | None) -> None:
        """A request of a session was taken or has ended: the routers that did not send it should know, too."""
        # What ends on a draining instance has its session elsewhere already.
        if self._instance.state is InstanceState.READY and self._sessions.use(session.id):
            for channel in self._channels.values():
                if channel is not by:
                    channel.sessions.tell(News(SESSIONS, [(session.id, 0.0)]))

    def placed(self, prefixes: bytes, by: Channel) -> None:
        """A prompt came: the routers that did not send it should know, too."""
        written = self.prefill.written_tokens
        if self._chunks is None:
            self._prefixes.add(prefixes, written)
        for channel in self._channels.values():
            if channel is not by:
                channel.prompts.tell(News(PREFIXES, (prefixes, written)))

    def all_sessions(self) -> News | None:
        """Every session that was served lately; None where there is none, or it drains: they are elsewhere by now."""
        sessions = [] if self._instance.state is InstanceState.DRAINING else self._sessions.all()
        return News(SESSIONS, sessions) if sessions else None

    def all_prompts(self) -> News | None:
        """What the engine has cached, or what was sent to one that does not say."""
        if self._chunks is None:
            return News(ALL_PREFIXES, self._prefixes.all()) if self._prefixes.is_worth_telling else None
        return News(ALL_CHUNKS, (self._changes, *pack_held(self._chunks.all())))

    def _forget_cached(self) -> None:
        """The engine has nothing cached any more. One that says what it has says so itself."""
        if self._chunks is None:
            self._prefixes.clear()
            for channel in self._channels.values():
                channel.prompts.tell_everything()

    def _hear_chunks(self, cached: dict[int, int], evicted: list[int]) -> None:
        """The engine says what has changed in its cache: what does in one turn of the event loop goes together."""
        if not (self._cached or self._evicted):
            asyncio.get_running_loop().call_soon(self.tell_changes)
        for prefix in evicted:
            # What was cached a moment ago, and is no more.
            self._cached.pop(prefix, None)
        self._evicted += evicted
        self._cached |= cached

    def tell_changes(self) -> None:
        """Tells all channels what has changed of late in what the engine has cached, if anything has."""
        if not (self._cached or self._evicted):
            return
        self._changes += 1
        news = News(CHUNKS, (self._changes, *pack_held(self._cached), pack(self._evicted)))
        self._cached, self._evicted = {}, []
        for channel in self._channels.values():
            channel.prompts.tell(news)

    # Channels.

    def open(self, channel_id: str, after: int, first: int = 1) -> AsyncIterator[bytes]:
        """The frames of a channel after frame `after`; 0 opens it, for requests numbered from `first`.

        Raises:
            InstanceLost: From the first `anext`: it cannot go on from there.
        """
        channel = self._channels.get(channel_id)
        if channel is None:
            channel = Channel(self, self._channel_settings, first)
            if after == 0:
                self._channels[channel_id] = channel
                if self._instance.state is InstanceState.DRAINING:
                    channel.broadcast(News(DRAINING))
                channel.sessions.tell_everything()
                channel.prompts.tell_everything()
        return channel.frames(after)

    def send(self, channel_id: str, batch: Sequence[Upward]) -> None:
        """Takes what a router says of its requests; what is wrong with one goes back as its error, in a frame."""
        channel = self._channels.get(channel_id)
        # A channel that was closed has told its reader so, and that fails the requests on it.
        if channel is not None:
            channel.take(batch)

    def acknowledge(self, channel_id: str, sequence: int) -> None:
        """The reader of a channel has had its frames up to this one."""
        channel = self._channels.get(channel_id)
        if channel is not None:
            channel.acknowledge(sequence)

    def close(self, channel_id: str) -> None:
        """Closes a channel and kills its requests."""
        channel = self._channels.pop(channel_id, None)
        if channel is not None:
            channel.close()

    def broadcast(self, news: News) -> None:
        """Sends something to every router replica."""
        for channel in self._channels.values():
            channel.broadcast(news)

    # Plain calls.

    async def call(self, request: CallRequest[Answer]) -> Answer:
        """Answers at once, without a stream, in the lane of its kind. Cancelling the waiter kills the request."""
        refusal = self.refusal()
        # One that drains still answers what costs nothing, if it ever could.
        costs_nothing = not request.runs_model and isinstance(refusal, Draining) and self._has_booted
        if refusal is not None and not costs_nothing:
            raise refusal
        lane = self._embeddings if request.runs_model else self._texts
        context = Context()
        try:
            async with lane.place(request.size, request.priority, request.tenant):
                if request.runs_model:
                    await self.trials.begin(context)
                answer = await self.engine.call(request, context)
        except EngineDead as error:
            self.engine_died(error)
            raise InstanceLost(f"The engine of instance {self.id} died.", instance=self.id) from error
        finally:
            self.trials.leave(context)
            context.kill()
        if request.session is not None:
            self.served(request.session, None)
        return answer

    async def check_health(self, canary_idle_s: float, timeout_s: float, stall_s: float) -> None:
        """Returns when the engine can work.

        Args:
            canary_idle_s: An engine that took no step for so long is asked for one real token.
            timeout_s: What that token, or the engine's word on how it is, may take.
            stall_s: An engine that has work and takes no step for so long hangs.

        Raises:
            NotReady: It still boots.
            EngineDead: It is finished.
            Timeout: It hangs: it took no step, though it had work. The routers were told.
            EngineFailed: It failed to give a token, or to say how it is.
        """
        if self._instance.state is InstanceState.GONE:
            raise EngineDead(self._instance.detail or "The instance is gone.", instance=self.id)
        if not self._has_booted:
            raise NotReady(f"The instance {self.id} still boots.", instance=self.id)
        try:
            await within(timeout_s, self.engine.check_health())
            steps, is_busy = self.pulse()
            self._steps.observe(steps, is_busy)
            if is_busy and self._steps.stalled_s >= stall_s:
                raise Timeout("stall", stall_s)
            if self._steps.idle_s >= canary_idle_s:
                await self._ask_for_a_token(timeout_s)
        except EngineDead as error:
            self.engine_died(error)
            raise error.at(self.id) from None
        except TimeoutError:
            raise EngineFailed(f"The engine did not say within {timeout_s:g} s how it is.", instance=self.id) from None
        except Timeout as error:
            # It is about to be replaced, and its requests handed over one by one, as those of an instance that only
            # shuts down: before that the routers must know that one of them may be what hung it.
            self._tell_of_death()
            raise error.at(self.id) from None
        except EngineFailed as error:
            raise error.at(self.id) from None

    async def _ask_for_a_token(self, timeout_s: float) -> None:
        """Raises what `ask_one_token` raises, unless the engine stepped meanwhile: then it had others to serve."""
        if not self._sleeper.is_awake:
            return  # It is not woken for that; whether it wakes is known when it must.
        steps = self.engine.steps
        try:
            with self._sleeper.kept_awake():
                await ask_one_token(self._bare_engine, self._spec.model, timeout_s)
        except Timeout:
            if self.engine.steps == steps:
                raise
        self._steps.restart()

    # The end.

    async def drain(self, timeout_s: float) -> None:
        """Takes no new work, and finishes what runs; what still runs after `timeout_s` is handed over.

        Who waits at the gate is turned away at once with Draining, so that a router takes it elsewhere. Handed over
        means failed with InstanceLost, from which Migration goes on elsewhere.
        """
        if self._instance.state is InstanceState.GONE:
            return
        if self._instance.state is not InstanceState.DRAINING:
            self._become(InstanceState.DRAINING)
            self.broadcast(News(DRAINING))
            for waiting in (self.gate, self._embeddings):
                waiting.clear(Draining(f"The instance {self.id} takes no new work.", instance=self.id))
        await self._until(lambda: self.gate.running + self._embeddings.running == 0, timeout_s)
        ended = InstanceLost(f"The instance {self.id} shuts down.", instance=self.id).because("ended")
        for channel in list(self._channels.values()):
            channel.hand_over(ended)
        await self._until(self._is_flushed, _FLUSH_S)

    async def stop(self, timeout_s: float) -> None:
        """Hands over what runs, stops the engine within the deadline, and closes every channel. Idempotent.

        Also in the middle of the boot, which ends with it.
        """
        is_up = self._has_booted and self._instance.state is not InstanceState.GONE
        await self.drain(0.0)
        booting, self._booting = self._booting, None
        if is_up:
            await self.engine.stop(timeout_s)
        elif booting is not None:
            # The engine releases what it has by then, as always when its boot fails.
            booting.cancel()
            await asyncio.wait({booting}, timeout=timeout_s)
            if booting.done() and not booting.cancelled() and booting.exception() is None:
                await self.engine.stop(timeout_s)  # It had just ended.
        for channel_id in list(self._channels):
            self.close(channel_id)
        self._lag.stop()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        if self._instance.state is not InstanceState.GONE:
            self._become(InstanceState.GONE, "stopped")

    def _tell_of_death(self) -> None:
        for channel in self._channels.values():
            channel.engine_died()

    async def _start_engine(self) -> None:
        # The import of an engine takes up to a minute; the event loop has announcements to make meanwhile.
        module, _, _ = engine_kind(self._spec.kind).engine.partition(":")
        await in_daemon_thread(lambda: import_module(module))
        # What does not count as work for its sleep goes past that.
        self._bare_engine = make_engine(self.id, self._spec)
        self.engine = self._sleeper.watching(self._bare_engine)
        await self.engine.start()

    def _become(self, state: InstanceState, detail: str = "") -> None:
        self._instance = replace(self._instance, state=state, detail=detail, since_s=time.time())
        self._on_change()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._channel_settings.heartbeat_s)
            if self._sleeper.is_awake:
                self._steps.tick(*self.pulse())
            else:
                self._steps.restart()  # Until it has woken it owes no step, whatever it did not come to before.
            has_work = any(part.running + part.queued for part in (self.gate, self._embeddings))
            self._sleeper.tick(may_sleep=self._instance.state is InstanceState.READY and not has_work)
            self.gate.expire()
            for channel_id, channel in list(self._channels.items()):
                if not channel.tick():
                    self.close(channel_id)

    def _is_flushed(self) -> bool:
        outboxes = [channel.outbox for channel in self._channels.values()]
        return all(outbox.is_empty and not outbox.unacknowledged for outbox in outboxes)

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        until_s = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)


def _boot_failure(spec: EngineSpec, error: Exception) -> PenstockError:
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, ValidationError):
        return InvalidRequest(f"The options of model {spec.model!r} are wrong: {error}", param="options")
    if isinstance(error, ImportError):
        return EngineFailed(f"The engine {spec.kind!r} cannot be imported: {error}")
    return EngineFailed(f"The engine {spec.kind!r} cannot boot: {type(error).__name__}: {error}")
