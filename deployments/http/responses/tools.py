"""Tools and the choice among them, as clients write them, and as an engine is given them.

A custom tool, which takes text, is a function of one string to the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Tag, model_validator

from deployments.http.responses.items import IS_ASYNC, Waited
from deployments.http.server.body_parts import Strict, refused, tagged
from deployments.http.server.names import Location
from engines.errors import InvalidRequest
from engines.messages import NamedFunction, NamedToolChoice, ToolChoice

HOSTED = frozenset(
    {
        *("apply_patch", "code_interpreter", "computer", "computer_use", "computer_use_preview", "file_search"),
        *("image_generation", "local_shell", "mcp", "namespace", "programmatic_tool_calling", "shell", "tool_search"),
        *("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"),
    }
)
"""Types of tools that run on OpenAI's servers."""
INPUT = "input"
"""The one parameter of the function that a custom tool is."""
_CUSTOM_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {INPUT: {"type": "string"}},
    "required": [INPUT],
    "additionalProperties": False,
}

AtOnce = Annotated[Any, refused("every tool is told to the model at once; leave it out", False)]
ByTheModel = Annotated[Any, refused("only the model itself calls tools here", [], ["direct"])]


class FunctionTool(Strict):
    """A function that the client runs."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: Annotated[Any, refused("what a function gives back is not looked at; leave it out")] = None
    defer_loading: AtOnce = None
    allowed_callers: ByTheModel = None
    is_async: Waited = Field(None, validation_alias=IS_ASYNC)


class CustomTool(Strict):
    """A tool that the client runs, and that takes text."""

    type: Literal["custom"]
    name: str
    description: str | None = None
    format: Annotated[
        Any, refused("a custom tool takes any text here; use a function whose schema has a pattern", {"type": "text"})
    ] = None
    defer_loading: AtOnce = None
    allowed_callers: ByTheModel = None
    is_async: Waited = Field(None, validation_alias=IS_ASYNC)


Tools = Annotated[
    list[
        Annotated[
            Annotated[FunctionTool, Tag("a function")] | Annotated[CustomTool, Tag("a custom tool")],
            tagged({"function": "a function", "custom": "a custom tool"}, "a tool"),
        ]
    ],
    Field(fail_fast=True),
]


class AllowedTool(Strict):
    """One of the tools, by its name."""

    type: Literal["function", "custom"]
    name: str


class ToolChoiceBody(Strict):
    """A tool that must be used; or the tools that may, or of which one must."""

    type: Literal["function", "custom", "allowed_tools"]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[AllowedTool], Field(fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _of_its_type(self) -> Self:
        if self.type == "allowed_tools":
            if self.name is not None or self.mode is None or self.tools is None:
                raise ValueError("the type 'allowed_tools' has a mode and tools")
        elif self.name is None or self.mode is not None or self.tools is not None:
            raise ValueError(f"the type {self.type!r} has a name, and nothing else")
        return self


@dataclass(slots=True)
class ToolsForEngine:
    """What an engine is given.

    Attributes:
        tools: The tools, as `engines.messages.Tool` has them.
        choice: The choice among them; None: the model's.
        names: What the caller calls their fields.
    """

    tools: list[dict[str, Any]] = field(default_factory=list)
    choice: ToolChoice | None = None
    names: dict[Location, Location | None] = field(default_factory=dict)


def tools_for_engine(
    tools: Sequence[FunctionTool | CustomTool], choice: ToolChoiceBody | Literal["none", "auto", "required"] | None
) -> ToolsForEngine:
    """The tools as an engine takes them, without those that the choice leaves out.

    Raises:
        InvalidRequest: Two have one name, or the choice names one that is not there.
    """
    by_name: dict[str, FunctionTool | CustomTool] = {}
    for index, tool in enumerate(tools):
        if tool.name in by_name:
            param = f"tools[{index}].name"
            raise InvalidRequest(f"{param}: another tool has this name, too.", param=param)
        by_name[tool.name] = tool
    made = ToolsForEngine()
    left = set(by_name)
    if isinstance(choice, str):
        made.choice = choice
    elif choice is not None:
        for param, one in _named(choice):
            found = by_name.get(one.name or "")
            if found is None or found.type != one.type:
                message = f"{param}: there is no {one.type} tool {(one.name or '')[:80]!r} in tools."
                raise InvalidRequest(message, param=param)
        if choice.tools is not None:
            left = {one.name for one in choice.tools}
            made.choice = choice.mode if left else "none"
        else:
            made.choice = NamedToolChoice(function=NamedFunction(name=choice.name or ""))
    for index, tool in enumerate(tools):
        if tool.name in left:
            _add(made, tool, index)
    return made


def _named(choice: ToolChoiceBody) -> Iterator[tuple[str, ToolChoiceBody | AllowedTool]]:
    """What names a tool, and where it does."""
    if choice.tools is None:
        yield "tool_choice", choice
        return
    for index, tool in enumerate(choice.tools):
        yield f"tool_choice.tools[{index}]", tool


def _add(made: ToolsForEngine, tool: FunctionTool | CustomTool, index: int) -> None:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    place: Location = ("tools", len(made.tools))
    made.names[place] = made.names[*place, "function"] = ("tools", index)
    if isinstance(tool, CustomTool):
        function["parameters"] = dict(_CUSTOM_PARAMETERS)
        made.names[*place, "function", "parameters"] = ("tools", index)
    else:
        function |= {name: value for name in ("parameters", "strict") if (value := getattr(tool, name)) is not None}
    made.tools.append({"type": "function", "function": function})
