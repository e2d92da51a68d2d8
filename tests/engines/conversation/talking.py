"""A conversation under test: frames go in, and what was said is kept."""

import asyncio
from collections.abc import Sequence
from typing import Any

from engines.context import Context
from engines.conversation.conversation import Conversation, Generates
from engines.conversation.events import ConversationEvent, TurnDelta, TurnFailed, TurnFinished, TurnStarted
from engines.conversation.frames import Append, Frame, Open, Respond
from engines.conversation.journal import ConversationLimits
from engines.errors import PenstockError
from engines.events import Finished, TextDelta
from engines.messages import Message

WAIT_S = 60.0


class Heard:
    """Takes the events of a conversation."""

    def __init__(self) -> None:
        self.events: list[ConversationEvent] = []
        self.error: PenstockError | None = None
        self._changed = asyncio.Event()

    def emit(self, event: ConversationEvent) -> None:
        assert self.error is None and not (self.events and isinstance(self.events[-1], Finished))
        self.events.append(event)
        self._changed.set()

    def fail(self, error: PenstockError) -> None:
        assert self.error is None
        self.error = error
        self._changed.set()

    async def until(self, kind: type, turn: str | None = None, *, times: int = 1) -> Any:
        """The latest event of the kind, once there are so many of it (about the turn)."""
        async with asyncio.timeout(WAIT_S):
            while True:
                found = [event for event in self.events if isinstance(event, kind)]
                found = [event for event in found if turn is None or event.turn == turn]
                if len(found) >= times:
                    return found[-1]
                self._changed.clear()
                await self._changed.wait()

    async def failed(self) -> PenstockError:
        """The error that ended it."""
        async with asyncio.timeout(WAIT_S):
            while self.error is None:
                self._changed.clear()
                await self._changed.wait()
        return self.error

    def texts(self) -> dict[str, str]:
        """What each turn has said, by its name."""
        return texts(self.events)


def texts(events: Sequence[ConversationEvent]) -> dict[str, str]:
    said: dict[str, str] = {event.turn: "" for event in events if isinstance(event, TurnStarted)}
    for event in events:
        if isinstance(event, TurnDelta) and isinstance(event.delta, TextDelta):
            said[event.turn] += event.delta.text
    return said


def token_ids(events: Sequence[ConversationEvent]) -> dict[str, tuple[int, ...]]:
    """The ids of each turn's answer."""
    ids: dict[str, tuple[int, ...]] = {}
    for event in events:
        if isinstance(event, TurnDelta):
            ids[event.turn] = ids.get(event.turn, ()) + getattr(event.delta, "token_ids", ())
    return ids


def ends(events: Sequence[ConversationEvent]) -> dict[str, str]:
    """How each turn ended: its reason, or its error's code."""
    found: dict[str, str] = {}
    for event in events:
        if isinstance(event, TurnFinished | TurnFailed):
            assert event.turn not in found
            found[event.turn] = event.reason if isinstance(event, TurnFinished) else event.error.code
    return found


def user(item: str, text: str, **fields: Any) -> Append:
    return Append(item=item, message=Message(role="user", content=text), **fields)


def respond(turn: str, **settings: Any) -> Respond:
    return Respond.model_validate({"turn": turn, "settings": settings or None})


def talk(
    engine: Generates, *frames: Frame, model: str = "model", limits: ConversationLimits | None = None, **opening: Any
) -> tuple[Conversation, Heard]:
    """A conversation that has taken these frames."""
    heard = Heard()
    conversation = Conversation(engine, Open(model=model, **opening), Context(), heard, limits)
    for frame in frames:
        conversation.take(frame)
    return conversation, heard
