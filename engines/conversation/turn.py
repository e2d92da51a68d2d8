"""One turn of a conversation: a one-shot request over the history, whose answer becomes the history's next items."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from engines.conversation.answer import TurnAnswer
from engines.conversation.events import TurnDelta, TurnFailed, TurnFinished, TurnStarted
from engines.conversation.frames import Item, TurnSettings
from engines.conversation.journal import messages_of
from engines.errors import EngineFailed, InvalidRequest, PenstockError
from engines.events import Event, Finished, Started, Usage
from engines.requests import GenerateRequest, first_problem

if TYPE_CHECKING:
    from engines.conversation.conversation import Conversation


class Turn:
    """The sink of a turn's request.

    Args:
        conversation: Whose turn it is.
        name: Its name.
        settings: How it is answered.

    Attributes:
        name: As given.
        settings: As given.
        context: Its request's.
    """

    def __init__(self, conversation: "Conversation", name: str, settings: TurnSettings) -> None:
        self.name = name
        self.settings = settings
        self.context = conversation.child()
        self._conversation = conversation
        self._answer = TurnAnswer(name)
        self._unlink = conversation.context.link(self.context)
        self._submitting: asyncio.Task[None] | None = None
        # What it answers is what was said before it was asked for, whenever its turn comes.
        self._history = conversation.journal.entries()
        self._has_place = not settings.aside
        if self._has_place:
            conversation.journal.reserve(self._place)

    def start(self) -> None:
        """Asks the engine, in the background."""
        conversation, settings = self._conversation, self.settings
        messages = settings.input if settings.input is not None else messages_of(self._history)
        self._history = []
        try:
            if not messages and settings.instructions is None:
                raise InvalidRequest("There is nothing to answer: no items, no input, no instructions.")
            request = conversation.request(settings, messages)
        except ValidationError as error:
            self.fail(first_problem(error))
            return
        except PenstockError as error:
            self.fail(error)
            return
        self._submitting = asyncio.get_running_loop().create_task(self._submit(request))

    async def _submit(self, request: GenerateRequest) -> None:
        try:
            await self._conversation.engine.submit(request, self.context, self)
        except PenstockError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - the caller waits: it must hear of a bug, too
            self.fail(EngineFailed(f"{type(error).__name__}: {error}"))

    def emit(self, event: Event) -> None:
        """Takes the next event of the answer."""
        match event:
            case Started():
                self._conversation.emit(TurnStarted(self.name, event.engine, event.model, event.prompt_tokens))
            case Finished():
                items = self._answer.items(event) if self._has_place else []
                self._leave(items)
                ids = tuple(item.id for item in items)
                self._conversation.close(self, TurnFinished(self.name, event.reason, event.usage, event.engine, ids))
            case _:
                self._conversation.emit(TurnDelta(self.name, event, self._answer.add(event)))

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the answer."""
        self._leave(())
        self._conversation.close(self, TurnFailed(self.name, error))

    def cancel(self) -> None:
        """Ends it before it was begun."""
        self._leave(())
        self._conversation.close(self, TurnFinished(self.name, "cancelled", Usage()))

    def _leave(self, items: Sequence[Item]) -> None:
        self._unlink()
        if self._has_place:
            self._conversation.journal.fill(self._place, items)

    @property
    def _place(self) -> str:
        return f"{self.name}."
