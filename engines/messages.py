"""A conversation, as OpenAI's chat API writes it: what goes into a chat template.

These models guard the border. Of a message they check shape and role and keep the rest as it came, because chat
templates read fields that no API names. A content part has exactly the keys of its type: renderers read more (vLLM's
takes a `uuid` for the identity of an image, and then looks at neither its bytes nor where its URL leads).
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag

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


Kind = Literal["image", "audio", "document"]


class MediaPart(_Model):
    """A part that holds data rather than text: base class of the three below.

    Attributes:
        kind: What it is to a model.
        place: Where its data is, from the part on.
        type: OpenAI's name for it.
    """

    kind: ClassVar[Kind]
    place: ClassVar[str]

    type: str

    @property
    def data(self) -> str:
        """The data as the caller wrote it; empty where it is in `GenerateRequest.attachments`."""
        name, field = self.place.split(".")
        text: str = getattr(getattr(self, name), field)
        return text

    def holding(self, data: str) -> Self:
        """The same part with other data."""
        name, field = self.place.split(".")
        return self.model_copy(update={name: getattr(self, name).model_copy(update={field: data})})


class ImageUrl(_Model):
    """Where an image is: a data URL. `detail` says how OpenAI's models should scale it."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(MediaPart):
    """An image in a message's content."""

    kind = "image"
    place = "image_url.url"

    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl


class InputAudio(_Model):
    """Sound, in base64."""

    data: str
    format: Literal["wav", "mp3"]


class AudioPart(MediaPart):
    """A recording in a message's content."""

    kind = "audio"
    place = "input_audio.data"

    type: Literal["input_audio"] = "input_audio"
    input_audio: InputAudio


class InputFile(_Model):
    """A document: a data URL, and what the caller calls it."""

    file_data: str
    filename: str | None = None


class FilePart(MediaPart):
    """A document in a message's content."""

    kind = "document"
    place = "file.file_data"

    type: Literal["file"] = "file"
    file: InputFile


# Tags that are no keys of a part: pydantic writes them between the keys when it says where something is wrong.
_TAGS = {"text": "a text", "image_url": "an image", "input_audio": "a recording", "file": "a document"}


def _tag(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return _TAGS.get(kind) if isinstance(kind, str) else None


ContentPart = Annotated[
    Annotated[TextPart, Tag("a text")]
    | Annotated[ImagePart, Tag("an image")]
    | Annotated[AudioPart, Tag("a recording")]
    | Annotated[FilePart, Tag("a document")],
    Discriminator(
        _tag,
        custom_error_type="unknown_part",
        custom_error_message=f"a part is of one of the types {', '.join(_TAGS)}",
    ),
]
# A list of a million wrong items is one error, not a million.
ContentParts = Annotated[list[ContentPart], Field(fail_fast=True)]


class Message(BaseModel):
    """One message. Keys that are not named here are kept for the chat template.

    Attributes:
        is_error: Of a tool's answer: whether the call failed.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Role
    content: str | ContentParts | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    is_error: bool | None = None

    def for_template(self) -> dict[str, Any]:
        """The message as a chat template takes it: a dictionary without the keys that were not given."""
        return self.model_dump(exclude_none=True)


def media_parts(messages: Sequence[Message]) -> Iterator[tuple[str, MediaPart]]:
    """The parts of a conversation that hold data, in their order, each with where it is (`messages[0].content[1]`)."""
    for index, message in enumerate(messages):
        if isinstance(message.content, list):
            for place, part in enumerate(message.content):
                if isinstance(part, MediaPart):
                    yield f"messages[{index}].content[{place}]", part


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
