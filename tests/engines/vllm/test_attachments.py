"""Images on a real vLLM: each answer is that of its own image, and stays so wherever the stream goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from engines.call_requests import TokenizeRequest
from engines.context import Context
from engines.errors import AttachmentRefused, InvalidRequest, Unsupported
from engines.events import Event
from engines.operators.attachments import Attachments
from engines.operators.fallback import Fallback
from engines.operators.link import link
from engines.operators.migration import Migration
from engines.requests import GenerateRequest, TenantShare
from engines.vllm.engine import VllmEngine
from tests.engines.attachments.pictures import WAV, audio, image, png, said
from tests.engines.vllm.asking import Recorder, ask, chat, ids_of
from tests.engines.vllm.booted import booted
from tests.engines.vllm.tiny_vision import make

pytestmark = pytest.mark.asyncio(loop_scope="module")

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
# In this type an answer alone and one in a batch are the same to the last token.
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "kv_cache_bytes": 64 * 2**20,
    "max_num_seqs": 16,
    "max_model_len": 1024,
    "enforce_eager": True,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("tiny-vision")
    make(folder)
    return folder


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(model: Path) -> AsyncIterator[VllmEngine]:
    async with booted("vision-0", model=str(model), **OPTIONS) as engine:
        yield engine


def seeing(*pictures: bytes, tokens: int = 16, **fields: Any) -> GenerateRequest:
    """Asks what is in the pictures."""
    sampling = {"max_tokens": tokens, "ignore_eos": True}
    return chat("", messages=said(*map(image, pictures)), sampling=sampling, **fields)


async def said_ids(engine: Any, request: GenerateRequest) -> tuple[int, ...]:
    return tuple((await ask(engine, request)).choices[0].token_ids)


async def test_different_images_get_different_answers_alone_and_batched(engine: VllmEngine) -> None:
    assert engine.capabilities.vision
    pictures = [png(20, 20, color) for color in COLORS]
    alone = [await said_ids(engine, seeing(picture)) for picture in pictures]
    assert len(set(alone)) == len(alone)
    batched = await asyncio.gather(*(said_ids(engine, seeing(picture)) for picture in [*pictures, *pictures]))
    assert batched == [*alone, *alone]
    first, second = pictures[:2]
    assert await said_ids(engine, seeing(first, second)) != await said_ids(engine, seeing(second, first))


async def test_an_image_is_the_same_to_every_tenant_and_known_again_to_its_own(engine: VllmEngine) -> None:
    def of(salt: str, picture: bytes) -> GenerateRequest:
        parts = image(picture), image(png(20, 20, (1, 2, 3))), {"type": "text", "text": "look at it again " * 60}
        tenant = TenantShare(name="t", cache_salt=salt) if salt else None
        return chat("", messages=said(*parts), sampling={"max_tokens": 8, "ignore_eos": True}, tenant=tenant)

    first, second = png(20, 20, (90, 9, 200)), png(20, 20, (9, 200, 90))
    answers = [[await said_ids(engine, of(salt, picture)) for picture in (first, second)] for salt in ("", "a", "b")]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] != answers[0][1]
    cached = [(await ask(engine, of(salt, first))).usage.cached_tokens for salt in ("a", "c")]
    assert cached[0] > 0 == cached[1]


async def test_attachments_beside_the_request_say_the_same_as_in_it(engine: VllmEngine) -> None:
    around = link(Attachments(), engine)
    request = seeing(png(20, 20, (9, 90, 200)), tokens=8)
    assert await said_ids(around, request) == await said_ids(engine, request)
    tokenize = TokenizeRequest(model="demo", messages=request.messages)
    assert (await around.tokenize(tokenize)).token_ids == (await engine.tokenize(tokenize)).token_ids
    assert (await ask(around, request)).usage.prompt_tokens == len((await around.tokenize(tokenize)).token_ids)


async def test_vllm_sees_no_url_and_no_key_of_the_callers(engine: VllmEngine) -> None:
    for part in ({"type": "image_url", "image_url": {"url": url}} for url in ("https://a.example/b.png", "file:///a")):
        with pytest.raises(AttachmentRefused) as refused:
            await ask(engine, chat("", messages=said(part)))
        assert refused.value.param == "messages[0].content[1].image_url.url"
    with pytest.raises(InvalidRequest, match="set `attachments"):
        await booted("vision-1", engine_args={"allowed_media_domains": ["a.example"]}).__aenter__()


async def test_an_image_that_is_broken_behind_its_head_is_named(engine: VllmEngine) -> None:
    whole = png(20, 20)
    with pytest.raises(AttachmentRefused) as refused:
        await ask(engine, seeing(whole, whole[:60]))
    assert refused.value.param == "messages[0].content[2].image_url.url"
    with pytest.raises(Unsupported) as unsupported:
        await ask(engine, chat("", messages=said(audio(WAV))))
    assert unsupported.value.param == "messages[0].content[1]"
    await engine.check_health()


async def test_a_stream_goes_on_with_its_image_when_its_engine_is_killed(engine: VllmEngine, model: Path) -> None:
    request = seeing(png(20, 20, (200, 30, 90)), tokens=300)
    expected = await said_ids(engine, request)
    before = set(psutil.Process().children(recursive=True))
    async with booted("vision-1", model=str(model), **OPTIONS) as doomed:
        cores = [one for one in psutil.Process().children(recursive=True) if one not in before]
        said_so_far: list[Event] = []

        def listen(event: Event) -> None:
            said_so_far.append(event)
            if len(ids_of(*said_so_far)) == 5:
                for core in cores:
                    if "EngineCore" in core.name():
                        core.kill()

        recorder = Recorder(listen)
        around = link(Attachments(), Migration(), Fallback("both", [doomed, engine]))
        await around.submit(request, Context(), recorder)
        await recorder.end()
        assert recorder.error is None
        assert not doomed.ready
        assert tuple(ids_of(*recorder.events)) == expected
