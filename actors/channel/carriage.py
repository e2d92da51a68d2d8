"""How attachments go up a channel: beside their request, and large ones by way of Ray's object store.

What is in the store is uploaded once: a stream that moves to another instance refers to the same object. It is freed
with the attachment, and so when nobody holds the request any more.
"""

import asyncio
from collections.abc import Awaitable, Sequence

import ray
from ray.exceptions import RayError

from engines.attachments.attachment import Attachment
from engines.errors import Unavailable

BY_REFERENCE_BYTES = 256 * 1024
"""From here on an attachment goes by reference."""

Carried = tuple[str, bytes | Awaitable[bytes]]
"""An attachment on its way: its media type, and its data or what is awaited for it."""


async def put_large(attachments: Sequence[Attachment]) -> None:
    """Puts those that are large into the store, where they are not there yet.

    Raises:
        Unavailable: There is no room for one.
    """
    for attachment in attachments:
        if len(attachment.data) >= BY_REFERENCE_BYTES and attachment.stored is None:
            try:
                # A full store makes its caller wait until something was spilled.
                attachment.stored = await asyncio.to_thread(ray.put, attachment.data)
            except RayError as error:
                raise Unavailable("There is no room for the attachments now.", retry_after_s=1.0) from error


def carried(attachments: Sequence[Attachment]) -> tuple[Carried, ...]:
    """What goes up for them; those that are large were put into the store."""
    return tuple(
        (one.media_type, one.data if len(one.data) < BY_REFERENCE_BYTES else one.stored) for one in attachments
    )


async def arrived(attachments: Sequence[Carried]) -> list[Attachment]:
    """The attachments at the other end.

    Raises:
        RayError: One is lost, as when the process that put it into the store has died.
    """
    return [Attachment(name, data if isinstance(data, bytes) else await data) for name, data in attachments]
