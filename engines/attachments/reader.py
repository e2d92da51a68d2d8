"""Reads the attachments of a conversation: decoded, checked, and held to limits, before any engine sees them."""

import asyncio
import codecs
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field

from engines.attachments import base64_text
from engines.attachments.attachment import Attachment
from engines.attachments.images import image_pixels
from engines.attachments.media_types import AUDIO_FORMATS, MEDIA_TYPES, known_type, names_of
from engines.errors import AttachmentRefused, Unsupported
from engines.messages import AudioPart, ImagePart, MediaPart, Message, media_parts
from engines.turns import Turns

_SLICE_BYTES = 256 * 1024

Fetch = Callable[[str, int], Awaitable[tuple[str, bytes]]]
"""Fetches a URL of at most so many bytes: the media type that is declared for it, and the data.

Raises AttachmentRefused where it must not be fetched, or cannot be.
"""


class AttachmentLimits(BaseModel):
    """What the attachments of one request may cost.

    Attributes:
        max_count: How many there may be.
        max_bytes: Bytes of all of them together, decoded from base64.
        max_pixels: Pixels of all images together: an engine takes three bytes and more for each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_count: int = Field(16, ge=0)
    max_bytes: int = Field(16 * 2**20, ge=0)
    max_pixels: int = Field(64 * 2**20, ge=0)


class AttachmentReader:
    """Reads attachments, one after another however many requests there are, in turns of the event loop.

    Args:
        limits: What those of one request may cost.
        fetch: Fetches images by URL; None: URLs are refused.
    """

    def __init__(self, limits: AttachmentLimits | None = None, fetch: Fetch | None = None) -> None:
        self._limits = limits or AttachmentLimits()
        self._fetch = fetch
        self._turn = asyncio.Lock()

    async def read(self, messages: Sequence[Message]) -> list[Attachment]:
        """The attachments of a conversation, in their order.

        Raises:
            AttachmentRefused: One is over a limit, of a type that is not taken, or not what it is said to be; names it
                as the caller wrote it (`messages[0].content[1].image_url.url`).
            Unsupported: There is an image, and pillow is not installed.
        """
        parts = [(f"{param}.{part.place}", part) for param, part in media_parts(messages)]
        limits = self._limits
        if len(parts) > limits.max_count:
            raise AttachmentRefused(
                f"The request has {len(parts)} attachments, and at most {limits.max_count} are taken.",
                param=parts[limits.max_count][0],
            )
        sources = self._sources(parts)
        attachments = []
        bytes_left, pixels_left = limits.max_bytes - sum(source.size for source in sources), limits.max_pixels
        for source in sources:
            with _naming(source.param):
                if source.url:
                    assert self._fetch is not None
                    declared, data = await self._fetch(source.url, bytes_left)
                    bytes_left -= len(data)
                    source.media_type = _known(declared, source.part)
                async with self._turn:
                    if not source.url:
                        data = await _decoded(source)
                    await _check_type(data, source.media_type)
                    attachment = Attachment(source.media_type, data, known_digest=await _digest(data))
                if source.part.kind == "image":
                    pixels_left -= await asyncio.to_thread(image_pixels, data, source.media_type)
                    if pixels_left < 0:
                        raise AttachmentRefused(f"The images have more than {limits.max_pixels} pixels.")
            attachments.append(attachment)
        return attachments

    def _sources(self, parts: Sequence[tuple[str, MediaPart]]) -> "list[_Source]":
        """Where the data of each part is. What can be told without decoding is refused before any is decoded."""
        sources = []
        size = 0
        for param, part in parts:
            with _naming(param):
                source = self._source(param, part)
                size += source.size
                if size > self._limits.max_bytes:
                    raise AttachmentRefused(f"The attachments have more than {self._limits.max_bytes} bytes.")
            sources.append(source)
        return sources

    def _source(self, param: str, part: MediaPart) -> "_Source":
        if isinstance(part, AudioPart):
            return _Source(param, part, AUDIO_FORMATS[part.input_audio.format])
        found = base64_text.split_data_url(part.data)
        if found is not None:
            return _Source(param, part, _known(found[0], part), found[1])
        is_url = isinstance(part, ImagePart) and part.data[:8].lower().startswith(("https://", "http://"))
        if is_url and self._fetch is not None:
            return _Source(param, part, url=part.data)
        example = "image/png" if part.kind == "image" else "application/pdf"
        hint = "; nothing is fetched from elsewhere" if is_url else ""
        raise AttachmentRefused(f"It must be a data URL in base64 (`data:{example};base64,...`){hint}.")


class _Source:
    """Where the data of one part is.

    Attributes:
        param: The part's name for the caller.
        part: The part.
        media_type: What it is said to be; empty until a URL was fetched.
        start: Where its base64 begins.
        url: What is to be fetched instead, or empty.
        size: Bytes that it will have; 0 for a URL.
    """

    __slots__ = ("media_type", "param", "part", "size", "start", "url")

    def __init__(self, param: str, part: MediaPart, media_type: str = "", start: int = 0, url: str = "") -> None:
        self.param = param
        self.part = part
        self.media_type = media_type
        self.start = start
        self.url = url
        self.size = 0 if url else base64_text.decoded_bytes(part.data, start)


@contextmanager
def _naming(param: str) -> Iterator[None]:
    """What is refused inside is this part."""
    try:
        yield
    except (AttachmentRefused, Unsupported) as error:
        error.param = error.param or param
        raise


def _known(declared: str, part: MediaPart) -> str:
    name = known_type(declared, part.kind)
    if name is None:
        raise AttachmentRefused(f"The type {declared[:80]!r} is not taken here; taken are {names_of(part.kind)}.")
    return name


async def _decoded(source: _Source) -> bytes:
    try:
        return await base64_text.decode(source.part.data, source.start)
    except ValueError as error:
        raise AttachmentRefused(f"It is not valid base64: {str(error)[:1].lower()}{str(error)[1:]}.") from None


async def _check_type(data: bytes, media_type: str) -> None:
    if not data:
        raise AttachmentRefused("It is empty.")
    if not MEDIA_TYPES[media_type].fits(data):
        raise AttachmentRefused(f"It is said to be {media_type}, and its data is not.")
    if media_type == "text/plain":
        decoder = codecs.getincrementaldecoder("utf-8")()
        turns = Turns()
        try:
            for at in range(0, len(data), _SLICE_BYTES):
                decoder.decode(data[at : at + _SLICE_BYTES], final=at + _SLICE_BYTES >= len(data))
                await turns.pause()
        except UnicodeDecodeError:
            raise AttachmentRefused("It is said to be text, and it is not UTF-8.") from None


async def _digest(data: bytes) -> str:
    digest = hashlib.sha256()
    turns = Turns()
    for at in range(0, len(data), _SLICE_BYTES):
        digest.update(data[at : at + _SLICE_BYTES])
        await turns.pause()
    return digest.hexdigest()
