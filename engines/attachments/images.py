"""What pillow says of images: how large they are by their heads, and whether they can be decoded at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from engines.attachments.media_types import MEDIA_TYPES
from engines.errors import AttachmentRefused, Unsupported


def image_pixels(data: bytes, media_type: str) -> int:
    """How many pixels it has, by its head. Blocks for milliseconds: for a thread.

    Raises:
        AttachmentRefused: It is no image of that type, or so large that pillow itself refuses it.
        Unsupported: pillow is not installed.
    """
    with _opened(data, media_type) as image:
        pixels: int = image.width * image.height
        return pixels


def check_image(data: bytes, media_type: str) -> None:
    """Returns if the whole image can be decoded. Blocks for as long as that takes: for a thread.

    Raises:
        AttachmentRefused: It cannot.
    """
    with _opened(data, media_type) as image:
        image.load()


@contextmanager
def _opened(data: bytes, media_type: str) -> Iterator[Any]:
    try:
        from PIL import Image
    except ImportError:
        raise Unsupported("Images need the package pillow here: pip install 'penstock[attachments]'.") from None
    try:
        with Image.open(BytesIO(data), formats=(MEDIA_TYPES[media_type].pillow,)) as image:
            yield image
    except Image.DecompressionBombError:
        raise AttachmentRefused("The image has too many pixels.") from None
    except Exception as error:
        # Whatever pillow's parsers stumble over in what a stranger sent, it is no image that anybody can read.
        raise AttachmentRefused(f"It cannot be read as {media_type}.") from error
