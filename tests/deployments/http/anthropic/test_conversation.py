"""Blocks in, messages for a chat template out; and what is wrong with them is named as the caller wrote it."""

import base64
from hashlib import sha256
from typing import Any

import pytest

from deployments.http.anthropic.blocks import InputMessage
from deployments.http.anthropic.conversation import Conversation, conversation_of
from engines.contract import Engine
from engines.registry import EngineSpec
from engines.scripted.engine import ScriptedEngine, ScriptedOptions
from tests.deployments.http.anthropic.talking import ADD, ask, said
from tests.deployments.http.conftest import HELLO, Serving
from tests.engines.attachments.pictures import PDF, png


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def document(source: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, **fields}


def picture(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    source = {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}
    return {"type": "image", "source": source}


def call(id: str, **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "add", "input": input}


def result(id: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": list(content)}


PLAIN = {"type": "text", "media_type": "text/plain", "data": "Once."}
PDF_DOCUMENT = document({"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(PDF).decode()})


def made(*messages: tuple[str, Any]) -> Conversation:
    parsed = [InputMessage.model_validate({"role": role, "content": content}) for role, content in messages]
    return conversation_of(None, parsed, {})


CONTENTS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "one text": ([text("a")], "a"),
    "texts": ([text("a"), text("b")], [text("a"), text("b")]),
    "a document": ([document(PLAIN)], "<document>\nOnce.\n</document>"),
    "its title and context": (
        [document(PLAIN, title="Tale", context="Old.", citations={"enabled": False})],
        "<document>\nTale\nOld.\nOnce.\n</document>",
    ),
    "a document of blocks": (
        [document({"type": "content", "content": [text("a"), text("b")]}, title="Tale")],
        [text("<document>\nTale"), text("a"), text("b"), text("</document>")],
    ),
    "a document of one text": ([document({"type": "content", "content": "a"})], "<document>\na\n</document>"),
    "what was found": (
        [{"type": "search_result", "title": "T", "source": "S", "content": [text("a"), text("b")]}],
        "<search_result>\nT\nS\na\nb\n</search_result>",
    ),
}


@pytest.mark.parametrize(("blocks", "content"), CONTENTS.values(), ids=CONTENTS)
def test_what_the_user_says(blocks: list[dict[str, Any]], content: Any) -> None:
    assert made(("user", blocks)).messages == [{"role": "user", "content": content}]


def test_turns_of_one_role_are_one() -> None:
    found = made(("user", "a"), ("user", [text("b")]), ("assistant", "c"), ("assistant", [text("d"), text("e")]))
    assert found.messages == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": "c\nde"},
    ]
    assert found.goes_on
    assert found.names["messages", 0, "content", 1] == ("messages", 1, "content", 0)
    assert found.names["messages", 1] == ("messages", 2)


def test_a_system_prompt_in_the_middle_stays_there() -> None:
    found = made(("user", "a"), ("system", [text("b")]), ("user", "c"))
    assert [message["role"] for message in found.messages] == ["user", "system", "user"]
    assert not found.goes_on


def engine() -> list[Engine]:
    options = ScriptedOptions.model_validate({"script": [{"echo": True}], "attachments": True})
    return [ScriptedEngine("demo-0", EngineSpec(kind="scripted", model="demo"), options)]


async def test_images_and_a_pdf_reach_a_model_that_reads_them(serving: Serving) -> None:
    image = png()
    async with serving(engines=engine()) as served:
        answer = await ask(served, messages=said(text("look"), picture(image), PDF_DOCUMENT))
    named = [("image/png", image), ("application/pdf", PDF)]
    digests = [f"{name}:{sha256(data).hexdigest()}" for name, data in named]
    assert answer.json["content"][0]["text"] == " ".join(["look", *digests])


async def test_an_image_is_what_came_of_a_call(serving: Serving) -> None:
    turn = {"role": "assistant", "content": [call("c1", a=1)]}
    async with serving(engines=(engines := engine())) as served:
        messages = [*HELLO, turn, *said(result("c1", text("see"), picture(png())))]
        assert (await ask(served, messages=messages, tools=[ADD])).status == 200
        last = engines[0].requests[0].messages[-1]
    assert last.role == "tool" and [part.type for part in last.content] == ["text", "image_url"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": said({"type": "video"})}, "messages.0.content.0: a content block"),
    ({"messages": said({"type": "server_tool_use", "id": "a"})}, "messages.0.content.0: a content block"),
    ({"messages": said({**text("a"), "x": 1})}, "messages.0.content.0.x: unknown field"),
    ({"messages": said(text("a"), {"type": "text"})}, "messages.0.content.1.text: this field is required"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role: "),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: "),
    ({"messages": []}, "messages: "),
    ({"messages": said(call("a"))}, "messages.0.content.0: a block of type tool_use is the assistant's"),
    (
        {"messages": [{"role": "assistant", "content": [PDF_DOCUMENT]}]},
        "messages.0.content.0: a block of type document",
    ),
    ({"messages": said(result("a"))}, "messages.0.content.0.tool_use_id: the message before"),
    ({"messages": [*HELLO, {"role": "assistant", "content": [call("a")]}]}, "messages.1: after a tool_use"),
    (
        {"messages": [*HELLO, {"role": "assistant", "content": [call("a")]}, *said(text("b"), result("a"))]},
        "messages.2.content.1: the results of tools",
    ),
    ({"messages": said({**call("a"), "caller": {"type": "code"}})}, "messages.0.content.0.caller: only the model"),
    ({"messages": said(picture(b"GIF89a"))}, "messages.0.content.0.source.data: It is said to be image/png"),
    ({"messages": said(picture(b"", "video/mp4"))}, "messages.0.content.0.source.data: The type 'video/mp4'"),
    (
        {"messages": said({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}})},
        "messages.0.content.0.source.url: It must be a data URL",
    ),
    (
        {"messages": said({"type": "image", "source": {"type": "file", "file_id": "a"}})},
        "messages.0.content.0.source: the source of an image (there are no uploaded files)",
    ),
    (
        {"messages": said(document({"type": "url", "url": "https://example.com/a.pdf"}))},
        "messages.0.content.0.source: the source of a document",
    ),
    ({"messages": said(document(PLAIN, citations={"enabled": True}))}, "messages.0.content.0.citations: citations are"),
    (
        {"messages": said({**picture(png()), "transformations": {"oversized_image": "error"}})},
        "messages.0.content.0.transformations: a large image",
    ),
    ({"system": [picture(png())]}, "system.0.type: "),
    ({"messages": [{"role": "system", "content": [picture(png())]}]}, "messages.0.content.0: a system prompt"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type: Anthropic's own tools"),
    ({"tools": [ADD, {"name": "b"}]}, "tools.1.input_schema: this field is required"),
    ({"tools": [{**ADD, "name": "a b"}]}, "tools.0.name: "),
    ({"tools": [{**ADD, "input_schema": []}]}, "tools.0.input_schema: "),
    ({"tools": [{**ADD, "defer_loading": True}]}, "tools.0.defer_loading: every tool"),
    ({"tools": [{**ADD, "input_examples": [{}]}]}, "tools.0.input_examples: write examples"),
    ({"tool_choice": {"type": "any"}}, "tool_choice: "),
    ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "b"}}, "tool_choice: "),
    ({"tools": [ADD], "tool_choice": {"type": "tool"}}, "tool_choice: a name belongs"),
    ({"stop_sequences": ["a", ""]}, "stop_sequences.1: "),
    ({"stop_sequences": ["a"] * 65}, "stop_sequences: "),
    ({"max_tokens": 0}, "max_tokens: "),
    ({"max_tokens": None}, "max_tokens: "),
    ({"temperature": -1}, "temperature: "),
    ({"temprature": 1}, "temprature: Unknown field 'temprature'. Did you mean 'temperature'?"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort: "),
    ({"output_config": {"format": {"type": "json_schema", "schema": 1}}}, "output_config.format.schema: "),
    ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type: "),
    ({"mcp_servers": [{"url": "https://example.com"}]}, "mcp_servers: this server calls no other"),
    ({"container": {"id": "a"}}, "container: it is about Anthropic's own servers"),
    ({"service_tier": "priority"}, "service_tier: it is about"),
    ({"speed": "fast"}, "speed: there is one speed"),
    ({"thread": {"type": "create"}}, "thread: no conversation is kept here"),
    ({"metadata": {"user": "a"}}, "metadata.user: unknown field"),
    ({"priority": 1000}, "priority: "),
    ({"model": ""}, "model: "),
]


@pytest.mark.parametrize(("fields", "says"), REFUSED, ids=[says.partition(": ")[0] for _, says in REFUSED])
async def test_what_is_wrong_is_named(serving: Serving, fields: dict[str, Any], says: str) -> None:
    async with serving(engines=(engines := engine())) as served:
        answer = await ask(served, **fields)
        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
        assert answer.json["error"]["message"].startswith(says), answer.json
        assert not engines[0].requests
        await served.still_serves()


@pytest.mark.parametrize(
    ("block", "reads"), [(picture(png()), "see images"), (PDF_DOCUMENT, "read documents")], ids=["image", "pdf"]
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_model_that_reads_text_refuses_the_rest_by_name(
    serving: Serving, block: dict[str, Any], reads: str, path: str
) -> None:
    limit = {} if path.endswith("count_tokens") else {"max_tokens": 9}
    async with serving() as served:
        body = {"model": "demo", "system": "Be brief.", "messages": [*HELLO, *said(text("a"), block)], **limit}
        answer = await served.post(path, body)
        assert answer.status == 400
        assert answer.json["error"]["message"].startswith(f"messages.1.content.1: This model does not {reads}")
        assert not served.engine.requests
