"""The answer of a turn, and the items of the history that it becomes."""

from engines.completion import CompletionBuilder
from engines.conversation.frames import Item
from engines.events import Delta, Finished, ToolCallArgumentsDelta, ToolCallFinished, ToolCallStarted
from engines.messages import FunctionCall, Message, ToolCall

_MESSAGE = -1
_OF_CALLS = (ToolCallStarted, ToolCallArgumentsDelta, ToolCallFinished)


class TurnAnswer:
    """Collects what a turn says: a message, if it says any text or reasons, and a call of a tool each.

    Args:
        turn: The turn's name.
    """

    __slots__ = ("_builder", "_finished_calls", "_ids", "_turn")

    def __init__(self, turn: str) -> None:
        self._turn = turn
        self._builder = CompletionBuilder()
        self._finished_calls: set[int] = set()
        # By the position of a call; and that of the message.
        self._ids: dict[int, str] = {}

    def add(self, event: Delta) -> str:
        """Takes the next piece; returns the id of its item. They are counted in the order in which they begin."""
        self._builder.add(event)
        if isinstance(event, ToolCallFinished):
            self._finished_calls.add(event.call)
        place = event.call if isinstance(event, _OF_CALLS) else _MESSAGE
        id = self._ids.get(place)
        if id is None:
            id = self._ids[place] = f"{self._turn}.{len(self._ids)}"
        return id

    def items(self, event: Finished) -> list[Item]:
        """What it has become: the message first. A call whose arguments were not complete when it ended is none.

        Args:
            event: How it ended.
        """
        completion = self._builder.add(event)
        assert completion is not None
        [choice] = completion.choices
        messages: dict[int, Message] = {}
        if choice.text or choice.reasoning:
            extra = {"redacted_reasoning": list(choice.redacted_reasoning)} if choice.redacted_reasoning else {}
            reasoning = choice.reasoning or None
            message = Message(role="assistant", content=choice.text, reasoning_content=reasoning, **extra)
            messages[_MESSAGE] = message
        for place, call in enumerate(choice.tool_calls):
            if place in self._finished_calls:
                function = FunctionCall(name=call.name, arguments=call.arguments)
                messages[place] = Message(role="assistant", tool_calls=[ToolCall(id=call.id, function=function)])
        return [Item.model_construct(id=self._ids[place], message=message) for place, message in messages.items()]
