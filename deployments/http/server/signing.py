"""Signatures on what clients are given, to be known again when they bring it back."""

import hashlib
import hmac
import secrets
from typing import Protocol

_KEY_BYTES = 32


class Signs(Protocol):
    """Signs data, and knows its own signatures again."""

    def sign(self, purpose: str, data: bytes) -> str:
        """A signature of the data, as ASCII text, good for this purpose alone."""

    def verify(self, purpose: str, data: bytes, signature: str) -> bool:
        """Whether the signature was made by `sign`, for this purpose and this data."""


class ProcessSecret:
    """Signs with a key that this process has made up: nobody else, and no later process, knows its signatures."""

    __slots__ = ("_key",)

    def __init__(self) -> None:
        self._key = secrets.token_bytes(_KEY_BYTES)

    def sign(self, purpose: str, data: bytes) -> str:
        """A signature of the data, in hexadecimal digits."""
        # The length keeps purpose and data apart.
        named = purpose.encode()
        return hmac.new(self._key, len(named).to_bytes(4) + named + data, hashlib.sha256).hexdigest()

    def verify(self, purpose: str, data: bytes, signature: str) -> bool:
        """Whether it is the signature of the data; compared in constant time."""
        return hmac.compare_digest(self.sign(purpose, data).encode(), signature.encode("utf-8", "surrogatepass"))
