"""What a conversation says: the events of its turns, each with its turn's name; at the end, one `Finished`."""

from dataclasses import dataclass

from engines.errors import PenstockError
from engines.events import Delta, Finished, FinishReason, Usage, Value


@dataclass(frozen=True, slots=True)
class TurnStarted(Value):
    """An engine took the turn.

    Attributes:
        turn: Its name.
        engine: Name of the engine (of the instance, in a fleet) that answers.
        model: Name of the model.
        prompt_tokens: Tokens of the prompt, or None when the engine does not know yet.
    """

    turn: str
    engine: str
    model: str
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TurnDelta(Value):
    """A piece of a turn's answer.

    Attributes:
        turn: Its name.
        delta: The piece.
        item: Id of the item that it becomes a part of, once the turn has finished.
    """

    turn: str
    delta: Delta
    item: str


@dataclass(frozen=True, slots=True)
class TurnFinished(Value):
    """The turn ended as it should.

    Attributes:
        turn: Its name.
        reason: Why; `cancelled` where its caller cancelled it.
        usage: Its tokens.
        engine: Name of the engine that answered; empty where none was asked.
        items: Ids of the items that its answer has become.
    """

    turn: str
    reason: FinishReason
    usage: Usage
    engine: str = ""
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnFailed(Value):
    """The turn failed; what it said is no part of the history, and the conversation goes on."""

    turn: str
    error: PenstockError


@dataclass(frozen=True, slots=True)
class FrameRefused(Value):
    """A frame that changes nothing, because something is wrong with it; the conversation goes on.

    Attributes:
        name: The item or turn that it was about.
        error: What is wrong.
    """

    name: str
    error: PenstockError


ConversationEvent = TurnStarted | TurnDelta | TurnFinished | TurnFailed | FrameRefused | Finished
