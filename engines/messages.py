"""A conversation, as OpenAI's chat API writes it: what goes into a chat template.

These models guard the border: they check shapes and roles and keep the rest as it came, because chat templates read
fields that no API names. Content parts other than text stay dictionaries; the engine that can see them reads them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Role = Literal["developer", "system", "user", "assistant", "tool"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FunctionCall(_Model):
    """What a model wants called: `arguments` is JSON as text."""

    name: str
    arguments: str = "{}"


class ToolCall(_Model):
    """One call of a tool, in a message of the assistant."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class TextPart(_Model):
    """A piece of text in a message's content."""

    type: Literal["text"] = "text"
    text: str


class MediaPart(BaseModel):
    """An image, audio or video part, kept as it came."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: Literal["image_url", "input_audio", "video_url", "audio_url", "file"]


ContentPart = Annotated[TextPart | MediaPart, Field(discriminator="type")]
# A list of a million wrong items is one error, not a million.
ContentParts = Annotated[list[ContentPart], Field(fail_fast=True)]


class Message(BaseModel):
    """One message. Keys that are not named here are kept for the chat template."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Role
    content: str | ContentParts | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def for_template(self) -> dict[str, Any]:
        """The message as a chat template takes it: a dictionary without the keys that were not given."""
        return self.model_dump(exclude_none=True)


class Function(_Model):
    """A function that the model may call, by a name as OpenAI takes it; `parameters` is a JSON schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class Tool(_Model):
    """A tool that the model may use."""

    type: Literal["function"] = "function"
    function: Function

    def for_template(self) -> dict[str, Any]:
        """The tool as a chat template takes it."""
        return self.model_dump(exclude_none=True)


class NamedFunction(_Model):
    """The name in a named tool choice."""

    name: str


class NamedToolChoice(_Model):
    """A tool choice that forces one tool."""

    type: Literal["function"] = "function"
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice
