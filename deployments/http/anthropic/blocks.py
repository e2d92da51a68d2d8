"""Content blocks, as clients write them.

Each has the keys of its type and no others. `cache_control` may stand on any of them and changes nothing: prefixes are
cached without being asked for. What a client got in an answer it may send back as it came.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from deployments.http.server.body_parts import Ignored, Strict, refused, tagged

Citations = Annotated[Any, refused("citations are not made here; leave it out", {}, {"enabled": False})]


class Block(Strict):
    """A content block: base class of all of them."""

    cache_control: Ignored = None


class TextBlock(Block):
    """Text. The citations of an answer's text may come back with it, and are left out."""

    type: Literal["text"]
    text: str
    citations: Ignored = None


class Base64Source(Strict):
    """Data, in base64."""

    type: Literal["base64"]
    media_type: str
    data: str


class PdfSource(Base64Source):
    """A PDF, in base64."""

    media_type: Literal["application/pdf"]


class UrlSource(Strict):
    """Where an image is."""

    type: Literal["url"]
    url: str


class TextSource(Strict):
    """A document that is text."""

    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class ImageBlock(Block):
    """An image. Where it is too large for the model, that scales it down."""

    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, Tag("base64 data")] | Annotated[UrlSource, Tag("a URL")],
        tagged({"base64": "base64 data", "url": "a URL"}, "the source of an image (there are no uploaded files)"),
    ]
    transformations: Annotated[
        Any, refused("a large image is scaled down here; leave it out", {}, {"oversized_image": "downsize"})
    ] = None


_TEXT, _IMAGE = "a text block", "an image block"


class ContentSource(Strict):
    """A document that is made of blocks."""

    type: Literal["content"]
    content: (
        str
        | Annotated[
            list[
                Annotated[
                    Annotated[TextBlock, Tag(_TEXT)] | Annotated[ImageBlock, Tag(_IMAGE)],
                    tagged({"text": _TEXT, "image": _IMAGE}, "a block of a document"),
                ]
            ],
            Field(fail_fast=True),
        ]
    )


class DocumentBlock(Block):
    """A document: text, blocks, or a PDF."""

    type: Literal["document"]
    source: Annotated[
        Annotated[PdfSource, Tag("a PDF")]
        | Annotated[TextSource, Tag("plain text")]
        | Annotated[ContentSource, Tag("blocks")],
        tagged(
            {"text": "plain text", "content": "blocks", "base64": "a PDF"},
            "the source of a document (none is fetched, and there are no uploaded files)",
        ),
    ]
    title: str | None = None
    context: str | None = None
    citations: Citations = None


class SearchResultBlock(Block):
    """What a search of the client's own has found."""

    type: Literal["search_result"]
    source: str
    title: str
    content: Annotated[list[TextBlock], Field(fail_fast=True)]
    citations: Citations = None


class ToolUseBlock(Block):
    """A call that the model wants made."""

    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    input: dict[str, Any]
    caller: Annotated[Any, refused("only the model itself calls tools here", {"type": "direct"})] = None
    toolset_name: Annotated[Any, refused("there are no toolsets here")] = None


_SEARCH, _DOCUMENT = "a search result block", "a document block"
_RESULTS = {"text": _TEXT, "image": _IMAGE, "document": _DOCUMENT, "search_result": _SEARCH}

ResultContent = Annotated[
    Annotated[TextBlock, Tag(_TEXT)]
    | Annotated[ImageBlock, Tag(_IMAGE)]
    | Annotated[DocumentBlock, Tag(_DOCUMENT)]
    | Annotated[SearchResultBlock, Tag(_SEARCH)],
    tagged(_RESULTS, "a block of a tool's result"),
]


class ToolResultBlock(Block):
    """What came of a call."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: str | Annotated[list[ResultContent], Field(fail_fast=True)] | None = None
    is_error: bool | None = None
    toolset_name: Annotated[Any, refused("there are no toolsets here")] = None


class ThinkingBlock(Strict):
    """The model's thinking, as it came in an answer."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class RedactedThinkingBlock(Strict):
    """Thinking that only its provider can read, as it came in an answer."""

    type: Literal["redacted_thinking"]
    data: str


_OTHERS = {
    "tool_use": "a tool use block",
    "tool_result": "a tool result block",
    "thinking": "a thinking block",
    "redacted_thinking": "a redacted block",
}

ContentBlock = Annotated[
    Annotated[TextBlock, Tag(_TEXT)]
    | Annotated[ImageBlock, Tag(_IMAGE)]
    | Annotated[DocumentBlock, Tag(_DOCUMENT)]
    | Annotated[SearchResultBlock, Tag(_SEARCH)]
    | Annotated[ToolUseBlock, Tag("a tool use block")]
    | Annotated[ToolResultBlock, Tag("a tool result block")]
    | Annotated[ThinkingBlock, Tag("a thinking block")]
    | Annotated[RedactedThinkingBlock, Tag("a redacted block")],
    tagged({**_RESULTS, **_OTHERS}, "a content block (Anthropic's own tools do not run here)"),
]


class InputMessage(Strict):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[ContentBlock], Field(fail_fast=True)]
