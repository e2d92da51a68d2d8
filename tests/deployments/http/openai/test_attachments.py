"""Images, recordings and documents in `POST /v1/chat/completions`, from the body to the engine."""

from hashlib import sha256
from typing import Any

import pytest

from deployments.http.server.bodies import LARGE_BYTES
from engines.contract import Engine
from engines.messages import media_parts
from engines.registry import EngineSpec
from engines.scripted.engine import ScriptedEngine, ScriptedOptions
from tests.deployments.http.conftest import Serving
from tests.engines.attachments.pictures import PDF, WAV, audio, document, image, png, said


def engine() -> list[Engine]:
    options = ScriptedOptions.model_validate({"script": [{"echo": True}], "attachments": True})
    return [ScriptedEngine("demo-0", EngineSpec(kind="scripted", model="demo"), options)]


async def test_they_reach_the_engine_as_bytes(serving: Serving) -> None:
    large = png(padding=3 * LARGE_BYTES)
    async with serving(engines=(engines := engine())) as served:
        answer = await served.chat(messages=said(image(large), audio(WAV), document(PDF), text="look"))
        named = [("image/png", large), ("audio/wav", WAV), ("application/pdf", PDF)]
        digests = [f"{name}:{sha256(data).hexdigest()}" for name, data in named]
        assert answer.json["choices"][0]["message"]["content"] == " ".join(["look", *digests])
        (request,) = engines[0].requests
        assert [part.data for _, part in media_parts(request.messages)] == ["", "", ""]


@pytest.mark.parametrize("body", [{"stream": True}, {}], ids=str)
@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({**image(png()), "uuid": "a"}, "messages[0].content[1].uuid", "invalid_request"),
        (image(png(), uuid="a"), "messages[0].content[1].image_url.uuid", "invalid_request"),
        ({"type": "video_url", "video_url": {"url": "data:,"}}, "messages[0].content[1]", "invalid_request"),
        (image(b"GIF89a"), "messages[0].content[1].image_url.url", "attachment_refused"),
        (
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            "messages[0].content[1].image_url.url",
            "attachment_refused",
        ),
    ],
)
async def test_refusals_name_the_part_as_it_was_written(
    serving: Serving, part: dict[str, Any], param: str, code: str, body: dict[str, Any]
) -> None:
    async with serving(engines=engine()) as served:
        answer = await served.chat(messages=said(part), **body)
        assert answer.status == 400
        assert (answer.json["error"]["param"], answer.json["error"]["code"]) == (param, code)
        await served.still_serves()


@pytest.mark.parametrize("part", [image(png()), audio(WAV), document(PDF)], ids=["image", "audio", "document"])
async def test_a_model_that_reads_text_refuses_them_by_name(serving: Serving, part: dict[str, Any]) -> None:
    async with serving() as served:
        answer = await served.chat(messages=said(part))
        assert answer.status == 400
        assert answer.json["error"]["code"] == "unsupported"
        assert answer.json["error"]["param"] == "messages[0].content[1]"
        tokens = await served.post("/tokenize", {"model": "demo", "messages": said(part)})
        assert (tokens.status, tokens.json["error"]["param"]) == (400, "messages[0].content[1]")
        assert not served.engine.requests


async def test_the_same_image_is_the_same_request_and_another_is_not(serving: Serving) -> None:
    async with serving(engines=engine()) as served:
        first, again, other = [
            (await served.chat(messages=said(image(png(color=color))))).json["choices"][0]["message"]["content"]
            for color in ((1, 2, 3), (1, 2, 3), (3, 2, 1))
        ]
        assert first == again != other
