"""Tools and the choice among them, as clients write them, and as an engine is given them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from deployments.http.server.body_parts import Ignored, Strict, refused
from deployments.http.server.names import Location
from engines.messages import NamedFunction, NamedToolChoice, ToolChoice


class ToolBody(Strict):
    """A tool that the client runs."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Annotated[
        Any,
        refused("Anthropic's own tools do not run here; define it by a name and an input_schema of yours", "custom"),
    ] = None
    defer_loading: Annotated[Any, refused("every tool is told to the model at once; leave it out", False)] = None
    allowed_callers: Annotated[Any, refused("only the model itself calls tools here", [], ["direct"])] = None
    input_examples: Annotated[Any, refused("write examples into the tool's description", [])] = None
    cache_control: Ignored = None
    eager_input_streaming: Ignored = None

    @model_validator(mode="before")
    @classmethod
    def _its_type_first(cls, data: Any) -> Any:
        # A tool of Anthropic's has no schema: that it is one of those says more than that its schema is missing.
        if isinstance(data, dict) and data.get("type") not in (None, "custom"):
            return {"name": "", "input_schema": {}, "type": data["type"]}
        return data


Tools = Annotated[list[ToolBody], Field(fail_fast=True)]


class ToolChoiceBody(Strict):
    """Whether the model may, must, or must use one of the tools."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _a_name_for_a_tool(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("a name belongs to the type 'tool', and to no other")
        return self

    def for_engine(self) -> ToolChoice:
        """The same as engines take it."""
        match self.type:
            case "any":
                return "required"
            case "tool":
                assert self.name is not None
                return NamedToolChoice(function=NamedFunction(name=self.name))
            case kind:
                return kind


def tools_for_engine(tools: Sequence[ToolBody]) -> tuple[list[dict[str, Any]], dict[Location, Location | None]]:
    """The tools as engines take them, and what the caller calls their fields."""
    made: list[dict[str, Any]] = []
    names: dict[Location, Location | None] = {}
    for index, tool in enumerate(tools):
        function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
        for name in ("description", "strict"):
            if (value := getattr(tool, name)) is not None:
                function[name] = value
        made.append({"type": "function", "function": function})
        names["tools", index, "function", "parameters"] = ("tools", index, "input_schema")
        names["tools", index, "function"] = ("tools", index)
    return made, names
