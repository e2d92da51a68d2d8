"""API keys."""

import hmac
import os

from aiohttp import web

from engines.errors import Unauthorized

OPEN_PATHS = frozenset({"/health", "/live", "/ready", "/-/healthz"})
"""What a probe may ask without a key."""


class ApiKeys:
    """Asks for one of the keys in an environment variable; for none when it is empty or unset.

    Args:
        variable: Name of the environment variable: keys, separated by commas.
    """

    __slots__ = ("_keys",)

    def __init__(self, variable: str) -> None:
        given = os.environ.get(variable, "").split(",")
        self._keys = [key.strip().encode() for key in given if key.strip()]

    @property
    def given(self) -> bool:
        """Whether there are any, so that one is asked for."""
        return bool(self._keys)

    def check(self, request: web.BaseRequest) -> None:
        """Lets the request pass.

        Raises:
            Unauthorized: It carries no key, or a wrong one.
        """
        if not self._keys or request.path in OPEN_PATHS:
            return
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("No API key was given. Send it as `Authorization: Bearer KEY`.")
        # Header bytes that are not UTF-8 arrive as surrogates.
        given = key.strip().encode("utf-8", "surrogateescape")
        # Every key is compared, and each in constant time: the time taken says nothing about the keys.
        valid = False
        for known in self._keys:
            valid |= hmac.compare_digest(given, known)
        if not valid:
            raise Unauthorized("The API key is not valid.")
