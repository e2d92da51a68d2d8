"""The answer of a turn, and the items of the history that it becomes."""

from engines.completion import CompletionBuilder
from engines.conversation.frames import Item
from engines.events import Delta, Finished, ToolCallFinished
from engines.messages import FunctionCall, Message, ToolCall


class TurnAnswer:
    """Collects what a turn says."""

    __slots__ = ("_builder", "_finished_calls")

    def __init__(self) -> None:
        self._builder = CompletionBuilder()
        self._finished_calls: set[int] = set()

    def add(self, event: Delta) -> None:
        """Takes the next piece."""
        self._builder.add(event)
        if isinstance(event, ToolCallFinished):
            self._finished_calls.add(event.call)

    def items(self, turn: str, event: Finished) -> list[Item]:
        """What it has become: a message, if it said any text or reasoned, then a call of a tool each.

        A call whose arguments were not complete when it ended is none.

        Args:
            turn: The turn's name.
            event: How it ended.
        """
        completion = self._builder.add(event)
        assert completion is not None
        [choice] = completion.choices
        messages = []
        if choice.text or choice.reasoning:
            extra = {"redacted_reasoning": list(choice.redacted_reasoning)} if choice.redacted_reasoning else {}
            reasoning = choice.reasoning or None
            messages.append(Message(role="assistant", content=choice.text, reasoning_content=reasoning, **extra))
        for place, call in enumerate(choice.tool_calls):
            if place in self._finished_calls:
                function = FunctionCall(name=call.name, arguments=call.arguments)
                messages.append(Message(role="assistant", tool_calls=[ToolCall(id=call.id, function=function)]))
        return [Item.model_construct(id=f"{turn}.{place}", message=message) for place, message in enumerate(messages)]
