"""Items: what goes into a conversation, as clients write it.

Each has the keys of its type and no others. What a client got in an answer it may send back as it came.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, Tag

from deployments.http.server.body_parts import Ignored, Strict, refused, tagged

Id = Annotated[str, Field(min_length=1, max_length=512)]
Status = Literal["in_progress", "completed", "incomplete"]
NoFile = Annotated[Any, refused("there are no uploaded files here; send the data itself")]
NoNamespace = Annotated[Any, refused("there are no namespaces of tools here; leave it out")]
Direct = Annotated[Any, refused("only the model itself calls tools here", {"type": "direct"})]
IS_ASYNC = AliasChoices("async", "async_")
"""Also as the client's own models call it, where they are written without their aliases."""
Waited = Annotated[Any, refused("every call is waited for here; leave it out", False)]


class InputText(Strict):
    """A piece of text."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Ignored = None


class InputImage(Strict):
    """An image: a data URL, or a URL where the model's `attachments.urls` allows it."""

    type: Literal["input_image"]
    # Before what is missing where it is given.
    file_id: NoFile = None
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None
    prompt_cache_breakpoint: Ignored = None


class InputFile(Strict):
    """A document: a data URL."""

    type: Literal["input_file"]
    # Before what is missing where they are given.
    file_id: NoFile = None
    file_url: Annotated[Any, refused("documents are not fetched here; send the data in file_data")] = None
    file_data: str
    filename: str | None = None
    detail: Ignored = None
    prompt_cache_breakpoint: Ignored = None


class OutputText(Strict):
    """A piece of an answer's text."""

    type: Literal["output_text"]
    text: str
    annotations: Ignored = None
    logprobs: Ignored = None


class Refusal(Strict):
    """What a model has said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


_INPUTS = {"input_text": "a text", "input_image": "an image", "input_file": "a file"}

InputPart = Annotated[
    Annotated[InputText, Tag("a text")] | Annotated[InputImage, Tag("an image")] | Annotated[InputFile, Tag("a file")],
    tagged(_INPUTS, "a piece of a tool's output"),
]
Part = Annotated[
    Annotated[InputText, Tag("a text")]
    | Annotated[InputImage, Tag("an image")]
    | Annotated[InputFile, Tag("a file")]
    | Annotated[OutputText, Tag("an answer's text")]
    | Annotated[Refusal, Tag("a refusal")],
    tagged({**_INPUTS, "output_text": "an answer's text", "refusal": "a refusal"}, "a piece of a message's content"),
]


class MessageItem(Strict):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[Part], Field(fail_fast=True)]
    id: Id | None = None
    status: Status | None = None
    phase: Ignored = None


class FunctionCallItem(Strict):
    """A call of a function, which the model wants made; `arguments` is JSON as text."""

    type: Literal["function_call"]
    call_id: Id
    name: str = Field(min_length=1)
    arguments: str
    id: Id | None = None
    status: Status | None = None
    namespace: NoNamespace = None
    caller: Direct = None
    is_async: Waited = Field(None, validation_alias=IS_ASYNC)


class CustomToolCallItem(Strict):
    """A call of a custom tool, which the model wants made; `input` is text."""

    type: Literal["custom_tool_call"]
    call_id: Id
    name: str = Field(min_length=1)
    input: str
    id: Id | None = None
    status: Status | None = None
    namespace: NoNamespace = None
    caller: Direct = None
    is_async: Waited = Field(None, validation_alias=IS_ASYNC)


class FunctionCallOutputItem(Strict):
    """What came of a call of a function."""

    type: Literal["function_call_output"]
    call_id: Id
    output: str | Annotated[list[InputPart], Field(fail_fast=True)]
    id: Id | None = None
    status: Status | None = None
    name: Ignored = None
    namespace: NoNamespace = None
    caller: Direct = None


class CustomToolCallOutputItem(Strict):
    """What came of a call of a custom tool."""

    type: Literal["custom_tool_call_output"]
    call_id: Id
    output: str | Annotated[list[InputPart], Field(fail_fast=True)]
    id: Id | None = None
    status: Status | None = None
    caller: Direct = None


class SummaryText(Strict):
    """A summary of reasoning; none is made here."""

    type: Literal["summary_text"]
    text: str


class ReasoningText(Strict):
    """A model's reasoning."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Strict):
    """A model's reasoning: as text, or as the encrypted text that came in an answer, which goes before."""

    type: Literal["reasoning"]
    summary: Annotated[list[SummaryText], Field(fail_fast=True)] = []
    content: Annotated[list[ReasoningText], Field(fail_fast=True)] | None = None
    encrypted_content: str | None = None
    id: Id | None = None
    status: Status | None = None


class CompactionItem(Strict):
    """A conversation in short, as it came from `/v1/responses/compact`."""

    type: Literal["compaction"]
    encrypted_content: str
    id: Id | None = None
    status: Status | None = None
    created_by: Ignored = None


class ItemReference(Strict):
    """An item that is stored, by its id."""

    type: Literal["item_reference"] | None = None
    id: Id


TAGS = {
    "message": "a message",
    "function_call": "a call",
    "function_call_output": "a call's output",
    "custom_tool_call": "a custom tool's call",
    "custom_tool_call_output": "a custom tool's output",
    "reasoning": "reasoning",
    "compaction": "a compaction",
    "item_reference": "a reference",
}

SaidItem = (
    MessageItem
    | FunctionCallItem
    | FunctionCallOutputItem
    | CustomToolCallItem
    | CustomToolCallOutputItem
    | ReasoningItem
    | CompactionItem
)
"""An item that says something itself, and is no reference to another."""


def _kind(value: Any) -> str | None:
    """The type of an item, also of one that needs none: a message has a role, and a reference an id alone."""
    if not isinstance(value, Mapping):
        kind = getattr(value, "type", None)
        return "item_reference" if kind is None and isinstance(value, ItemReference) else kind
    kind = value.get("type")
    if kind is None:
        return "message" if "role" in value or "content" in value else "item_reference" if "id" in value else None
    return kind if isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("a message")]
    | Annotated[FunctionCallItem, Tag("a call")]
    | Annotated[FunctionCallOutputItem, Tag("a call's output")]
    | Annotated[CustomToolCallItem, Tag("a custom tool's call")]
    | Annotated[CustomToolCallOutputItem, Tag("a custom tool's output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[CompactionItem, Tag("a compaction")]
    | Annotated[ItemReference, Tag("a reference")],
    tagged(TAGS, "an item", _kind),
]
Items = Annotated[list[Item], Field(fail_fast=True)]

OF_HOSTED_TOOLS = frozenset(
    {
        *("additional_tools", "apply_patch_call", "apply_patch_call_output", "code_interpreter_call"),
        *("compaction_trigger", "computer_call", "computer_call_output", "configuration_update", "file_search_call"),
        *("image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_approval_request"),
        *("mcp_approval_response", "mcp_call", "mcp_list_tools", "program", "program_output", "shell_call"),
        *("shell_call_output", "tool_search_call", "tool_search_output", "web_search_call"),
    }
)
"""Types of items that only OpenAI's servers make and take."""

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "cto",
    "reasoning": "rs",
    "compaction": "cmp",
}


def written(item: SaidItem, made_of: str) -> dict[str, Any]:
    """An item of an input, as clients read it: with an id, and with all that the client's types ask for.

    Args:
        item: As it was sent.
        made_of: What its id is made of, where it was sent without one.
    """
    head = {
        "id": item.id or f"{_PREFIXES[item.type]}_{made_of}",
        "type": item.type,
        "status": item.status or "completed",
    }
    match item:
        case MessageItem():
            return {**head, "role": item.role, "content": _written_parts(item.content, item.role)}
        case FunctionCallItem():
            return {**head, "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        case CustomToolCallItem():
            return {**head, "call_id": item.call_id, "name": item.name, "input": item.input}
        case FunctionCallOutputItem() | CustomToolCallOutputItem():
            output = item.output if isinstance(item.output, str) else _written_parts(item.output, "user")
            return {**head, "call_id": item.call_id, "output": output}
        case ReasoningItem():
            summary = [piece.model_dump() for piece in item.summary]
            content = None if item.content is None else [piece.model_dump() for piece in item.content]
            return {**head, "summary": summary, "content": content, "encrypted_content": item.encrypted_content}
        case CompactionItem():
            return {**head, "encrypted_content": item.encrypted_content}


def _written_parts(content: str | Sequence[Part | InputPart], role: str) -> list[dict[str, Any]]:
    said = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        return [_written_text(said, content)]
    made = []
    for part in content:
        match part:
            case InputText() | OutputText():
                made.append(_written_text(said, part.text))
            case InputImage():
                made.append({"type": part.type, "image_url": part.image_url, "detail": part.detail or "auto"})
            case InputFile():
                made.append({"type": part.type, "file_data": part.file_data, "filename": part.filename})
            case Refusal():
                made.append({"type": part.type, "refusal": part.refusal})
    return made


def _written_text(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "text": text} | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})
