"""What a caller says in a conversation: frames, in their order.

The first is `Open`. Items make the history: messages, in an order that `after` can change. `Respond` asks for an answer
to the history up to there, answers of earlier turns included; the answer becomes the history's next items. So what a
conversation says follows from its frames, and not from when they come. They cross borders: pydantic guards them.
"""

from typing import Annotated, Any

from pydantic import Field, model_validator

from engines.messages import Message, Tool, ToolChoice
from engines.requests import RequestModel, Sampling, Session, TenantShare

ItemName = Annotated[str, Field(min_length=1, max_length=128)]
"""What a caller calls an item: unique in its conversation."""
TurnName = Annotated[str, Field(min_length=1, max_length=112)]
"""What a caller calls a turn: unique in its conversation, and so are the names of its answer's items."""
START = "root"
"""In `Append.after`: in front of all items. OpenAI's Realtime API calls it so."""


class Item(RequestModel):
    """A piece of the history.

    Attributes:
        id: The caller's name for it; those of answers are `TURN.0`, `TURN.1`, and so on.
        message: What it says. Several in a row that are the assistant's calls of tools are one message to the model.
    """

    id: ItemName
    message: Message


class TurnSettings(RequestModel):
    """How a turn is answered. What is not here is as in `GenerateRequest`.

    Attributes:
        instructions: A system message in front of everything else.
        input: What the turn answers, instead of the history.
        aside: The turn stands outside of the conversation: it may run beside others, and its answer is no item.
        sampling: How tokens are drawn; one choice.
        tools: Tools that the model may call.
        tool_choice: Whether it may, must, or must use one of them.
        parallel_tool_calls: Whether the answer may hold several calls.
        chat_template_kwargs: Passed to the chat template.
        reasoning_effort: Passed to the chat template where it knows it.
        include_reasoning: Whether reasoning is reported.
    """

    instructions: str | None = None
    input: Annotated[list[Message], Field(fail_fast=True)] | None = Field(None, min_length=1)
    aside: bool = False
    sampling: Sampling = Sampling()
    tools: list[Tool] = Field([], max_length=1024, fail_fast=True)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] = {}
    reasoning_effort: str | None = None
    include_reasoning: bool = True

    @model_validator(mode="after")
    def _one_choice(self) -> "TurnSettings":
        if self.sampling.n != 1:
            raise ValueError("sampling.n is 1 in a conversation")
        return self


class Open(RequestModel):
    """Opens a conversation: the first frame.

    Attributes:
        model: Name of the model.
        settings: How its turns are answered, where they say nothing themselves.
        items: The history so far, as of a conversation that is taken up again.
        session: Where its turns go; None: a session of its own, so that they go where their history is cached.
        instance: Direct dispatch: only this instance will do.
        priority: Of its turns; lower is served first.
        tenant: Set by the ingress or the router only: whom it is for.
    """

    model: str
    settings: TurnSettings = TurnSettings()
    items: list[Item] = []
    session: Session | None = None
    instance: str | None = None
    priority: int = Field(0, ge=-100, le=100)
    tenant: TenantShare | None = None


class Append(RequestModel):
    """Adds an item, or, where the last frame of that item left it open, more text to it.

    Attributes:
        item: Its id.
        message: What it says. More text of an open item: a message of the same role, whose content is the new part.
        after: Id of the item that it follows, or `root`; None: at the end. Where it is, its first frame says.
        open: Its text is still being written: it is no part of the history yet, and a later frame goes on with it. The
            engine may compute it meanwhile.
    """

    item: ItemName
    message: Message
    after: ItemName | None = None
    open: bool = False

    @model_validator(mode="after")
    def _open_is_text(self) -> "Append":
        if self.open and not isinstance(self.message.content, str):
            raise ValueError("message.content is a string while the item is open")
        return self


class Delete(RequestModel):
    """Takes an item out of the history; a turn that runs has seen it.

    Attributes:
        item: Its id.
    """

    item: ItemName


class Configure(RequestModel):
    """Changes how turns are answered that say nothing themselves, from now on.

    Attributes:
        settings: All of them; nothing of the earlier ones holds.
    """

    settings: TurnSettings


class Respond(RequestModel):
    """Asks for an answer to all that was said before. The conversation's own turns run one after another.

    Attributes:
        turn: The caller's name for it.
        settings: How it is answered; None: as the conversation says.
    """

    turn: TurnName
    settings: TurnSettings | None = None


class Cancel(RequestModel):
    """Ends a turn early: it finishes as `cancelled`, with what it has said.

    Attributes:
        turn: Its name. One that has ended, or was never asked for, is left alone.
    """

    turn: TurnName


Frame = Open | Append | Delete | Configure | Respond | Cancel
