"""One image, recording or document of a request, as bytes."""

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Attachment:
    """Data that travels beside a request.

    Attributes:
        media_type: A key of `engines.attachments.media_types.MEDIA_TYPES`; the data begins as that type does.
        data: The bytes.
        stored: Where a channel has put the bytes for engines in other processes, so that the next one finds them there.
            Its own business, never sent on, and freed with the attachment.
    """

    media_type: str
    data: bytes = field(repr=False)
    stored: Any = field(default=None, repr=False, compare=False)
    known_digest: str = field(default="", repr=False, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the data, in hexadecimal digits."""
        if not self.known_digest:
            self.known_digest = hashlib.sha256(self.data).hexdigest()
        return self.known_digest

    def __reduce__(self) -> tuple[Any, ...]:
        return Attachment, (self.media_type, self.data, None, self.known_digest)
