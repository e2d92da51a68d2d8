"""API keys: where a request carries one, what needs none, and who guesses."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from aiohttp import hdrs, web

from deployments.tenants.key_file import Holder
from deployments.tenants.keys import Keys
from engines.errors import Overloaded, Unauthorized

OPEN_PATHS = frozenset({"/health", "/live", "/ready", "/-/healthz"})
"""What a probe may ask without a key."""
_HEADERS = ("x-api-key", "api-key")
"""Where Anthropic's and Azure's clients send it."""
_KEY_PROTOCOL = "openai-insecure-api-key."
"""Where a browser sends it that opens a WebSocket: among the subprotocols."""

_FREE_GUESSES = 5
"""Wrong keys of a peer that are answered at once: somebody has pasted one wrongly."""
_DELAY_S = 0.1
"""By how much each one more is answered later."""
_LONGEST_S = 2.0
_FORGIVEN_S = 60.0
"""A peer that has guessed nothing for so long begins anew."""
_MOST_PEERS = 10_000
_MOST_WAITING = 1_000


class Authentication:
    """Lets those in who hold a key.

    Wrong keys are answered later and later, per peer; right ones never are: many clients may share an address.

    Args:
        keys: Who holds which.
        clock: Monotonic time in seconds.
    """

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._guesses: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._waiting = 0

    async def holder(
        self, request: web.BaseRequest, own: Callable[[bytes], Holder | None] | None = None
    ) -> Holder | None:
        """Who asks; None: a probe, of which no key is asked.

        Args:
            request: What came.
            own: Who comes with a key that the endpoint hands out itself, or None for another key; None: it hands out
                none.

        Raises:
            Unauthorized: The request carries no key, or a wrong one.
            NoKeys: There are no keys to tell by.
            Overloaded: So many who guess wait for their answers already that this one gets none.
        """
        if request.path in OPEN_PATHS:
            return None
        key = _key(request)
        try:
            holder = None if own is None or key is None else own(key)
            return holder or self._keys.holder(key)
        except Unauthorized:
            if key is not None:
                await self._answer_later(request.remote or "")
            raise

    async def _answer_later(self, peer: str) -> None:
        now_s = self._clock()
        guesses, last_s = self._guesses.pop(peer, (0, now_s))
        guesses = 1 if now_s - last_s > _FORGIVEN_S else guesses + 1
        self._guesses[peer] = (guesses, now_s)
        if len(self._guesses) > _MOST_PEERS:
            self._guesses.popitem(last=False)
        delay_s = min(_LONGEST_S, _DELAY_S * (guesses - _FREE_GUESSES))
        if delay_s <= 0:
            return
        if self._waiting >= _MOST_WAITING:
            raise Overloaded("Too many wrong API keys were sent. Try again later.", retry_after_s=_LONGEST_S)
        self._waiting += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._waiting -= 1


def _key(request: web.BaseRequest) -> bytes | None:
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    key = given.strip() if scheme.lower() == "bearer" else ""
    for header in _HEADERS:
        key = key or request.headers.get(header, "").strip()
    for protocol in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(","):
        if protocol.strip().startswith(_KEY_PROTOCOL):
            key = key or protocol.strip().removeprefix(_KEY_PROTOCOL)
    # Header bytes that are not UTF-8 arrive as surrogates.
    return key.encode("utf-8", "surrogateescape") if key else None
