"""What is read, what is refused, and what it costs the event loop."""

import asyncio
import io
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from engines.attachments.attachment import Attachment
from engines.attachments.beside import with_data, without_data
from engines.attachments.reader import AttachmentLimits, AttachmentReader
from engines.errors import AttachmentRefused
from engines.messages import Message, media_parts
from tests.engines.attachments.pictures import (
    MP3,
    PDF,
    WAV,
    audio,
    bomb,
    data_url,
    document,
    image,
    png,
    said,
    with_chunk,
)
from tests.turns import no_turn_is_longer

PACKED = zlib.compress(bytes(8 * 2**20))
URL = "messages[0].content[1].image_url.url"
_MESSAGES = TypeAdapter(list[Message])


def messages(*parts: dict[str, Any]) -> list[Message]:
    return _MESSAGES.validate_python(said(*parts))


async def read(*parts: dict[str, Any], **limits: int) -> list[Attachment]:
    return await AttachmentReader(AttachmentLimits(**limits)).read(messages(*parts))


async def refused(*parts: dict[str, Any], **limits: int) -> AttachmentRefused:
    with pytest.raises(AttachmentRefused) as caught:
        await read(*parts, **limits)
    return caught.value


def in_format(name: str) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (5, 4), (1, 2, 3)).save(file, name)
    return file.getvalue()


async def test_every_kind_is_read_in_its_order() -> None:
    parts = [image(png()), audio(WAV), document(PDF, filename="a.pdf"), audio(MP3, "mp3"), image(png(3, 3))]
    found = await read(*parts, document("grüße".encode(), "text/plain"))
    assert [(one.media_type, one.data) for one in found] == [
        ("image/png", png()),
        ("audio/wav", WAV),
        ("application/pdf", PDF),
        ("audio/mpeg", MP3),
        ("image/png", png(3, 3)),
        ("text/plain", "grüße".encode()),
    ]


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "webp"])
async def test_image_formats(name: str) -> None:
    (found,) = await read(image(in_format(name), f"image/{name}"))
    assert found == Attachment(f"image/{name}", in_format(name))


async def test_common_misnomers_are_understood() -> None:
    (found,) = await read(image(in_format("jpeg"), "image/jpg"))
    assert found.media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (image(png(), "image/jpeg"), "said to be image/jpeg"),
        (image(b"<svg/>", "image/svg+xml"), "'image/svg\\+xml' is not taken"),
        (image(PDF, "application/pdf"), "'application/pdf' is not taken"),
        (image(b""), "empty"),
        (image(png()[:20]), "cannot be read"),
        (image(b"\x89PNG\r\n\x1a\n" + bytes(100)), "cannot be read"),
        ({"type": "image_url", "image_url": {"url": data_url(png())[:-3]}}, "base64"),
        ({"type": "image_url", "image_url": {"url": data_url(png()) + "\n"}}, "base64"),
        ({"type": "image_url", "image_url": {"url": ""}}, "data URL"),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, "nothing is fetched"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "data URL"),
        (image(bomb(2**16, 2**16)), "too many pixels"),
        (image(bomb(2**31 + 5, 1)), "too many pixels"),
        (image(bomb(0, 5)), "cannot be read"),
        # What is packed beside the pixels: a profile of colors, and texts, of 8 MiB.
        (image(with_chunk(b"iCCP", b"a\0\0" + PACKED)), "cannot be read"),
        (image(with_chunk(b"zTXt", b"a\0\0" + PACKED)), "cannot be read"),
        (image(with_chunk(b"iTXt", b"a\0\1\0\0\0" + PACKED)), "cannot be read"),
        (image(png()[:33] + b"\x7f\xff\xff\xfftEXt"), "cannot be read"),
    ],
)
async def test_what_is_no_image_is_refused(part: dict[str, Any], says: str) -> None:
    error = await refused(part)
    assert error.param == URL
    with pytest.raises(AttachmentRefused, match=says):
        raise error


@pytest.mark.parametrize(
    ("part", "place"),
    [
        (audio(MP3, "wav"), "input_audio.data"),
        (audio(b"what", "mp3"), "input_audio.data"),
        (document(b"MZ"), "file.file_data"),
        (document(b"\xff\xfe", "text/plain"), "file.file_data"),
        (document(b"a\x00b", "text/plain"), "file.file_data"),
        (document(b"PK\x03\x04", "application/zip"), "file.file_data"),
        ({"type": "file", "file": {"file_data": "https://example.com/a.pdf"}}, "file.file_data"),
    ],
)
async def test_what_is_not_what_it_is_said_to_be_is_refused(part: dict[str, Any], place: str) -> None:
    assert (await refused(part)).param == f"messages[0].content[1].{place}"


async def test_limits_hold_for_all_of_a_request_together() -> None:
    one = png(100, 100)
    assert len(await read(image(one), image(one), max_count=2, max_bytes=2 * len(one), max_pixels=20_000)) == 2
    for limits in ({"max_count": 1}, {"max_bytes": 2 * len(one) - 1}, {"max_pixels": 19_999}):
        error = await refused(image(one), image(one), **limits)
        assert error.param == "messages[0].content[2].image_url.url"


async def test_what_is_fetched_counts_and_is_checked_as_what_is_sent() -> None:
    asked = []

    async def fetch(url: str, max_bytes: int) -> tuple[str, bytes]:
        asked.append((url, max_bytes))
        return "image/png", png()

    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    sent = image(png(9, 9))
    reader = AttachmentReader(AttachmentLimits(max_bytes=1000), fetch)
    found = await reader.read(messages(part, sent, part))
    assert [one.data for one in found] == [png(), png(9, 9), png()]
    left = 1000 - len(png(9, 9))
    assert asked == [("https://example.com/a.png", left), ("https://example.com/a.png", left - len(png()))]

    async def fetch_other(url: str, max_bytes: int) -> tuple[str, bytes]:
        return "image/png", PDF

    with pytest.raises(AttachmentRefused) as caught:
        await AttachmentReader(None, fetch_other).read(messages(part))
    assert caught.value.param == URL


async def test_data_goes_beside_the_messages_and_back() -> None:
    before = messages(image(png(), detail="low"), audio(WAV), document(PDF, filename="a.pdf"))
    beside = without_data(before)
    assert [part.data for _, part in media_parts(beside)] == ["", "", ""]
    assert beside[0].content[0] == before[0].content[0]  # type: ignore[index]
    assert await with_data(beside, await AttachmentReader().read(before)) == before
    assert await with_data(before, []) == before


@given(st.binary(max_size=300), st.sampled_from(["image/png", "image/jpeg", "image/gif", "image/webp"]))
async def test_whatever_is_sent_is_read_or_refused(data: bytes, media_type: str) -> None:
    magic = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF89a"}
    for whole in (data, magic.get(media_type, b"RIFF\x00\x00\x00\x00WEBP") + data):
        try:
            (found,) = await read(image(whole, media_type))
        except AttachmentRefused as error:
            assert error.param == URL
        else:
            assert found.data == whole


async def test_no_turn_is_long() -> None:
    large = [image(png(padding=7 * 2**20)), image(png(padding=7 * 2**20, color=(0, 0, 9)))]
    read_already = messages(*large)

    async def read_twice() -> None:
        reader = AttachmentReader()
        first, _ = await asyncio.gather(*(reader.read(read_already) for _ in range(2)))
        await with_data(without_data(read_already), first)

    await no_turn_is_longer(read_twice, 0.1)
