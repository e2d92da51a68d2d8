"""How a session's responses are made: what clients set for all of them, and for one."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from deployments.http.realtime.items import Body, InputItem
from engines.conversation.frames import TurnSettings
from engines.errors import InvalidRequest, Unsupported
from engines.messages import Function, Message, NamedFunction, NamedToolChoice, Tool, ToolChoice
from engines.requests import Sampling


class FunctionTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChosenFunction(Body):
    """Forces one function."""

    type: Literal["function"]
    name: str


class Reasoning(Body):
    """How hard the model thinks."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None


class ResponseFields(Body):
    """What a session and a response both say.

    Fields that ask for what there is not are refused by name; what asks for nothing passes.
    """

    instructions: str | None = None
    output_modalities: Annotated[list[str], Field(min_length=1, max_length=2)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | Literal["inf"] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    audio: Any = None
    prompt: Any = None

    def check(self, where: str) -> None:
        """Lets pass what can be had.

        Args:
            where: How the client calls the place that it is in.

        Raises:
            Unsupported: It asks for sound, or for a prompt that is kept elsewhere.
        """
        if self.output_modalities is not None and self.output_modalities != ["text"]:
            message = 'output_modalities: this API gives text alone; set it to ["text"].'
            raise Unsupported(message, param=f"{where}.output_modalities")
        for name in ("audio", "prompt"):
            if getattr(self, name):
                raise Unsupported(f"{name} is not supported: this API takes and gives text.", param=f"{where}.{name}")

    def changed(self, settings: TurnSettings) -> TurnSettings:
        """The settings with what is said here.

        Raises:
            ValidationError: A value is out of range.
        """
        changes: dict[str, Any] = {}
        sampling: dict[str, Any] = {}
        given = self.model_fields_set
        if "instructions" in given:
            changes["instructions"] = self.instructions or None
        if "tools" in given:
            changes["tools"] = [_tool(tool) for tool in self.tools or ()]
        if "tool_choice" in given:
            changes["tool_choice"] = _choice(self.tool_choice)
        if self.parallel_tool_calls is not None:
            changes["parallel_tool_calls"] = self.parallel_tool_calls
        if self.reasoning is not None:
            changes["reasoning_effort"] = self.reasoning.effort
        if "max_output_tokens" in given:
            # A number that does not fit means what fits: the history grows, and the session goes on.
            most = self.max_output_tokens
            sampling |= {"max_tokens": most if isinstance(most, int) else None, "clip_max_tokens": True}
        if "temperature" in given:
            sampling["temperature"] = self.temperature
        if sampling:
            changes["sampling"] = Sampling.model_validate(settings.sampling.model_dump(exclude_unset=True) | sampling)
        return settings.model_copy(update=changes)


class SessionFields(ResponseFields):
    """Body of `session.update`, and of a client secret."""

    type: Literal["realtime"] = "realtime"
    model: str | None = None
    include: list[str] | None = None
    tracing: Any = None
    truncation: Any = None

    def check(self, where: str) -> None:
        """Lets pass what can be had; raises Unsupported for what cannot."""
        super().check(where)
        if self.include:
            raise Unsupported("include names what only audio has.", param=f"{where}.include")
        if self.truncation not in (None, "disabled"):
            message = 'truncation: only "disabled" is supported; an item that does not fit any more is an error.'
            raise Unsupported(message, param=f"{where}.truncation")


class ResponseBody(ResponseFields):
    """Body of `response.create`."""

    conversation: Literal["auto", "none"] | None = None
    input: Annotated[list[InputItem], Field(max_length=4096, fail_fast=True)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    def settings(self, base: TurnSettings, messages: Sequence[Message] | None) -> TurnSettings:
        """How this one is answered.

        Args:
            base: What the session says.
            messages: What it answers instead of the history.

        Raises:
            ValidationError: A value is out of range.
        """
        changes: dict[str, Any] = {"aside": self.conversation == "none"}
        if messages is not None:
            changes["input"] = list(messages)
        return self.changed(base).model_copy(update=changes)


def session_written(id: str, model: str, settings: TurnSettings) -> dict[str, Any]:
    """A session as clients read it."""
    most = settings.sampling.max_tokens
    return {
        "id": id,
        "object": "realtime.session",
        "type": "realtime",
        "model": model,
        "output_modalities": ["text"],
        "instructions": settings.instructions or "",
        "tools": [
            {"type": "function", **tool.function.model_dump(exclude_none=True, exclude={"strict"})}
            for tool in settings.tools
        ],
        "tool_choice": _choice_written(settings.tool_choice),
        "parallel_tool_calls": settings.parallel_tool_calls,
        "max_output_tokens": "inf" if most is None else most,
        "truncation": "disabled",
    }


def _tool(tool: FunctionTool) -> Tool:
    function = Function(name=tool.name, description=tool.description, parameters=tool.parameters)
    return Tool(function=function)


def _choice(choice: str | ChosenFunction | None) -> ToolChoice | None:
    if isinstance(choice, ChosenFunction):
        return NamedToolChoice(function=NamedFunction(name=choice.name))
    # Without tools `auto` asks for nothing.
    return None if choice in (None, "auto") else choice  # type: ignore[return-value]


def _choice_written(choice: ToolChoice | None) -> Any:
    if isinstance(choice, NamedToolChoice):
        return {"type": "function", "name": choice.function.name}
    return choice or "auto"


def input_messages(
    items: Sequence[Any], find: Callable[[str], Message], read: Callable[[Any, str, str], Message]
) -> list[Message]:
    """The messages of a response's own input.

    Args:
        items: As the client wrote them.
        find: The message of an item of the session.
        read: The message of any other.

    Raises:
        InvalidRequest: An item that is referred to is not there, or there is nothing at all.
    """
    messages = []
    for place, item in enumerate(items):
        where = f"response.input[{place}]"
        if item.type == "item_reference":
            try:
                messages.append(find(item.id))
            except InvalidRequest as error:
                raise InvalidRequest(error.message, param=f"{where}.id") from None
        else:
            messages.append(read(item, item.id or "", where))
    if not messages:
        raise InvalidRequest(
            "response.input: it is empty; leave it out to answer the conversation.", param="response.input"
        )
    return messages
