"""Images, recordings and documents for tests, and the parts that carry them."""

import base64
import struct
import zlib
from typing import Any


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int = 8, height: int = 8, color: tuple[int, int, int] = (255, 0, 0), padding: int = 0) -> bytes:
    """A picture of one color; `padding` bytes of noise follow its head, as large photos have them."""
    row = b"\x00" + bytes(color) * width
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    noise = _chunk(b"noIs", bytes(padding)) if padding else b""
    pixels = zlib.compress(row * height)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + noise + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """A picture that is small as a file and says that it is so large."""
    return png()[:16] + _sized(width, height) + png()[33:]


def with_chunk(name: bytes, data: bytes) -> bytes:
    """A picture with another chunk behind its head."""
    return png()[:33] + _chunk(name, data) + png()[33:]


def _sized(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return head + struct.pack(">I", zlib.crc32(b"IHDR" + head))


WAV = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(24)
MP3 = b"ID3" + bytes(16)
PDF = b"%PDF-1.7\n%%EOF\n"


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def image(data: bytes, media_type: str = "image/png", **fields: Any) -> dict[str, Any]:
    """The part of an image."""
    return {"type": "image_url", "image_url": {"url": data_url(data, media_type), **fields}}


def audio(data: bytes, format: str = "wav") -> dict[str, Any]:
    """The part of a recording."""
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": format}}


def document(data: bytes, media_type: str = "application/pdf", **fields: Any) -> dict[str, Any]:
    """The part of a document."""
    return {"type": "file", "file": {"file_data": data_url(data, media_type), **fields}}


def said(*parts: dict[str, Any], text: str = "what is this?") -> list[dict[str, Any]]:
    """A conversation of one message: a text, and these parts."""
    return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]
