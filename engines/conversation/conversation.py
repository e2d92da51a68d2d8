"""One conversation with an engine: frames in, events out, turn after turn.

A turn is a one-shot request over the journal's history. So it goes the way of every request: through the operators
around the model, to the instance of its session, which has the history in its prefix cache, and on to another one when
that is full, drains, or dies in the middle of the answer. What an engine has of a conversation is a copy that may be
lost at any time.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from engines.context import Context
from engines.conversation.events import ConversationEvent, FrameRefused, TurnFailed, TurnFinished
from engines.conversation.frames import Append, Cancel, Configure, Delete, Frame, Open, Respond, TurnSettings
from engines.conversation.journal import ConversationLimits, Journal
from engines.conversation.prefill import EarlyPrefill
from engines.conversation.turn import Turn
from engines.errors import ConversationFull, InvalidRequest, PenstockError
from engines.events import Finished, FinishReason, Usage
from engines.messages import Message
from engines.requests import GenerateRequest, Session
from engines.sink import Sink


class Generates(Protocol):
    """What a conversation takes of an engine."""

    @property
    def name(self) -> str:
        """Its name."""

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises a PenstockError before that."""


class Conversation:
    """A conversation that is pushed: `take` its frames, and its events go to the sink.

    It ends with one `Finished` after `end` and its last turn, or when its context is stopped; with `Cancelled` when the
    context is killed. Neither is the end of the engine's.

    Args:
        engine: What answers its turns.
        opened: Its first frame.
        context: Its identity; stopping it ends what runs, and it.
        sink: Takes its events.
        limits: What it may hold.

    Attributes:
        context: As given.
        engine: As given.
        opened: As given.
        settings: How its turns are answered, where they say nothing themselves.
        session: Where its turns go.
        journal: Its history.

    Raises:
        InvalidRequest: The items that it opens with do not fit one another, or the limits.
    """

    def __init__(
        self,
        engine: Generates,
        opened: Open,
        context: Context,
        sink: Sink[ConversationEvent],
        limits: ConversationLimits | None = None,
    ) -> None:
        self.context = context
        self.engine = engine
        self.opened = opened
        self.settings = opened.settings
        self.session = opened.session or Session(id=context.id, mode="soft")
        self.journal = Journal(limits := limits or ConversationLimits())
        for item in opened.items:
            self.journal.put(item)
        self._limits = limits
        self._sink: Sink[ConversationEvent] | None = sink
        self._turns: dict[str, Turn] = {}
        self._waiting: deque[Turn] = deque()
        self._running: Turn | None = None
        self._usage = Usage()
        self._has_ended = False
        self._names = 0
        self._room: asyncio.Future[None] | None = None
        self._prefill = EarlyPrefill(self)
        self._unsubscribe = (context.on_stop(lambda _: self._stop()), context.on_kill(lambda _: self._kill()))

    @property
    def turns(self) -> int:
        """How many turns run or wait."""
        return len(self._turns)

    def take(self, frame: Frame) -> None:
        """Takes the next frame. One that is wrong changes nothing, and is answered with `FrameRefused`."""
        if self._sink is None or self._has_ended:
            return
        try:
            match frame:
                case Append():
                    self._append(frame)
                case Delete():
                    self.journal.delete(frame.item)
                case Configure():
                    self.settings = frame.settings
                case Respond():
                    self._respond(frame)
                case Cancel():
                    self._cancel(frame.turn)
                case Open():
                    raise InvalidRequest("A conversation is opened once.")
        except PenstockError as error:
            self._sink.emit(FrameRefused(_name(frame), error))

    def end(self) -> None:
        """No frame will come; it finishes when its turns have."""
        self._has_ended = True
        self._finish_if_over()

    async def has_room(self) -> None:
        """Returns when another turn fits, or none will be asked for any more."""
        while self._sink is not None and len(self._turns) >= self._limits.turns:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    def request(self, settings: TurnSettings, messages: Sequence[Message]) -> GenerateRequest:
        """What the engine is asked for, for a turn over these messages.

        Raises:
            ValidationError: The settings do not fit one another.
        """
        opened = self.opened
        if settings.instructions is not None:
            messages = [Message(role="system", content=settings.instructions), *messages]
        return GenerateRequest(
            model=opened.model,
            messages=list(messages),
            sampling=settings.sampling,
            tools=settings.tools,
            tool_choice=settings.tool_choice,
            parallel_tool_calls=settings.parallel_tool_calls,
            chat_template_kwargs=settings.chat_template_kwargs,
            reasoning_effort=settings.reasoning_effort,
            include_reasoning=settings.include_reasoning,
            session=self.session,
            instance=opened.instance,
            priority=opened.priority,
            tenant=opened.tenant,
        )

    def _append(self, frame: Append) -> None:
        turn, _, _ = frame.item.rpartition(".")
        if turn in self._turns:
            raise InvalidRequest(f"item: {frame.item!r} is the name of a part of an answer.", param="item")
        self.journal.append(frame)
        if frame.open:
            self._prefill.grow(frame.item)

    def _respond(self, frame: Respond) -> None:
        if frame.turn in self._turns or self.journal.has_of(frame.turn):
            raise InvalidRequest(f"turn: there was one of the name {frame.turn!r} already.", param="turn")
        if len(self._turns) >= self._limits.turns:
            raise ConversationFull(f"{self._limits.turns} turns run or wait already.")
        turn = self._turns[frame.turn] = Turn(self, frame.turn, frame.settings or self.settings)
        self._prefill.stop()
        if turn.settings.aside:
            turn.start()
        else:
            self._waiting.append(turn)
            self._start_next()

    def _cancel(self, name: str) -> None:
        turn = self._turns.get(name)
        if turn is None:
            return
        if turn in self._waiting:
            self._waiting.remove(turn)
            turn.cancel()
        else:
            turn.context.stop()

    def _start_next(self) -> None:
        while self._running is None and self._waiting:
            self._running = self._waiting.popleft()
            self._running.start()

    def child(self) -> Context:
        """The context of a turn."""
        self._names += 1
        return Context(f"{self.context.id}-{self._names}")

    def emit(self, event: ConversationEvent) -> None:
        """Says something of a turn."""
        if self._sink is not None and not self.context.is_killed:
            self._sink.emit(event)

    def close(self, turn: Turn, event: TurnFinished | TurnFailed) -> None:
        """A turn has ended."""
        del self._turns[turn.name]
        if isinstance(event, TurnFinished):
            self._usage += event.usage
        self.emit(event)
        self._tell_room()
        if turn is self._running:
            self._running = None
            self._start_next()
        self._finish_if_over()

    def _stop(self) -> None:
        """Its caller stopped it: what waits does not begin, and what runs ends early, each saying so."""
        self._has_ended = True
        if self.context.is_killed:
            return
        while self._waiting:
            self._waiting.popleft().cancel()
        self._finish_if_over()

    def _kill(self) -> None:
        sink = self._leave()
        if sink is not None:
            sink.fail(self.context.cancellation())

    def _finish_if_over(self) -> None:
        if self._has_ended and not self._turns and not self.context.is_killed:
            sink = self._leave()
            if sink is not None:
                reason: FinishReason = "cancelled" if self.context.is_stopped else "stop"
                sink.emit(Finished((reason,), self._usage, self.engine.name))

    def _leave(self) -> Sink[ConversationEvent] | None:
        sink, self._sink = self._sink, None
        self._prefill.stop()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._tell_room()
        return sink

    def _tell_room(self) -> None:
        """Wakes who waits for another turn to fit."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)


def _name(frame: Frame) -> str:
    match frame:
        case Append() | Delete():
            return frame.item
        case Respond() | Cancel():
            return frame.turn
        case Open() | Configure():
            return ""
