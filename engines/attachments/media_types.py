"""The media types that are taken, and how their data begins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engines.messages import Kind


@dataclass(frozen=True, slots=True)
class MediaType:
    """One type of data.

    Attributes:
        kind: What it is to a model.
        fits: Whether data begins as this type does.
        pillow: What pillow calls it; images only.
    """

    kind: Kind
    fits: Callable[[bytes], bool]
    pillow: str = ""


def _begins_with(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(magic)


def _is_riff(form: bytes) -> Callable[[bytes], bool]:
    return lambda data: data[:4] == b"RIFF" and data[8:12] == form


def _is_mp3(data: bytes) -> bool:
    """Tags first, or the sync word of a frame of MPEG's third layer."""
    return data.startswith(b"ID3") or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2)


MEDIA_TYPES: Mapping[str, MediaType] = {
    "image/png": MediaType("image", _begins_with(b"\x89PNG\r\n\x1a\n"), "PNG"),
    "image/jpeg": MediaType("image", _begins_with(b"\xff\xd8\xff"), "JPEG"),
    "image/gif": MediaType("image", _begins_with(b"GIF87a", b"GIF89a"), "GIF"),
    "image/webp": MediaType("image", _is_riff(b"WEBP"), "WEBP"),
    "audio/wav": MediaType("audio", _is_riff(b"WAVE")),
    "audio/mpeg": MediaType("audio", _is_mp3),
    "application/pdf": MediaType("document", _begins_with(b"%PDF-")),
    # Any bytes may be text but for NUL, which no text holds.
    "text/plain": MediaType("document", lambda data: b"\x00" not in data),
}
"""By the name that goes on to engines."""

OTHER_NAMES: Mapping[str, str] = {"image/jpg": "image/jpeg", "audio/x-wav": "audio/wav", "audio/mp3": "audio/mpeg"}
"""What callers write instead."""

AUDIO_FORMATS: Mapping[str, str] = {"wav": "audio/wav", "mp3": "audio/mpeg"}
"""The media types of OpenAI's audio formats."""


def known_type(name: str, kind: Kind) -> str | None:
    """The name that goes on to engines; None: no such type is taken for that kind."""
    name = OTHER_NAMES.get(name, name)
    return name if name in MEDIA_TYPES and MEDIA_TYPES[name].kind == kind else None


def names_of(kind: Kind) -> str:
    """The types that are taken for a kind, for messages."""
    return ", ".join(name for name, known in MEDIA_TYPES.items() if known.kind == kind)
