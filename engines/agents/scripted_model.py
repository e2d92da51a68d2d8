"""A model that plays scripts: for the tests of programs that ask models."""

from collections.abc import Callable, Sequence
from typing import Any

from engines.agents.completion_model import ChatRequest, ChatStream, CompletionModel, bound, opened
from engines.context import Context
from engines.contract import Capabilities
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine

Script = Sequence[Any]
"""Texts, events, errors and waits, as `engines.scripted.script` has them."""


class ScriptedModel(CompletionModel):
    """Answers with one script after another; the last one again and again.

    `ScriptedModel(["It is ", "sunny."], [QueueFull("full")], model="test")`. A first item that is an error is a setup
    error, a later one the stream's.

    Args:
        scripts: What the first, second, ... request is answered with.
        model: Name of the model.
        answer: Instead of scripts: the script for a request.

    Attributes:
        requests: What was asked so far.
    """

    name = "scripted"

    def __init__(
        self, *scripts: Script, model: str = "scripted", answer: Callable[[GenerateRequest], Script] | None = None
    ) -> None:
        if bool(scripts) == (answer is not None):
            raise ValueError("Give scripts, or a function that answers; not both.")
        self.model = model
        self._left = list(scripts)
        self._answer = answer
        self._engine = ScriptedEngine(model, script=self._script, capabilities=Capabilities(tools=True, reasoning=True))

    @property
    def requests(self) -> Sequence[GenerateRequest]:
        """What was asked so far, in order."""
        return self._engine.requests

    async def chat_stream(self, request: ChatRequest, context: Context | None = None) -> ChatStream:
        """Plays the next script. Raises its first item, if that is an error."""
        context = context or Context()
        await self._engine.start()
        return await opened(self._engine.generate(bound(request, self.model), context), context)

    def _script(self, request: GenerateRequest) -> Script:
        if self._answer is not None:
            return self._answer(request)
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]
