"""CORS: which web pages may call the API from a browser. None, unless the fleet file names them."""

import re

from aiohttp import hdrs, web

from deployments.fleet_settings import CorsSettings
from deployments.http.server.hints import INSTANCE_HEADER
from deployments.http.server.request_id import HEADER
from engines.errors import Forbidden

_EXPOSED = ", ".join((HEADER, INSTANCE_HEADER, "retry-after"))
"""What a page may read of an answer, besides what every page may."""
_METHODS = "GET, HEAD, POST, DELETE"
_MAX_AGE_S = 7200
"""For how long a browser need not ask again; more than this Chrome does not remember."""
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")


class Cors:
    """Lets the pages of some origins call the API.

    Cookies are not used here, so credentials are not allowed: a page sends its key itself, as every client does.

    Args:
        settings: The origins; none: nothing is allowed, and nothing is said of it.
    """

    __slots__ = ("_any", "_origins")

    def __init__(self, settings: CorsSettings) -> None:
        self._origins = frozenset(settings.origins)
        self._any = "*" in self._origins

    def preflight(self, request: web.BaseRequest) -> web.Response | None:
        """The answer to a browser that asks whether a page may send a request; None when it does not ask that.

        Raises:
            Forbidden: The page may not.
        """
        origin = request.headers.get(hdrs.ORIGIN)
        asks = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if not (self._origins and asks and origin):
            return None
        if not self._allows(origin):
            raise _forbidden(origin)
        answer = web.Response(status=204)
        answer.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = _METHODS
        answer.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(_MAX_AGE_S)
        # Clients add headers of their own (OpenAI's a dozen), and none of them does anything that a page may not.
        names = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
        if _HEADER_NAMES.fullmatch(names):
            answer.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = names
        return answer

    def check_origin(self, request: web.BaseRequest) -> None:
        """Lets pass what no foreign page has sent. Browsers ask nobody before they open a WebSocket.

        Raises:
            Forbidden: A page that may not call this server has.
        """
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or self._allows(origin):
            return
        if origin.partition("://")[2] != request.headers.get(hdrs.HOST):
            raise _forbidden(origin)

    def set_headers(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Says on an answer, whatever it is, that the page may read it."""
        if not self._origins:
            return
        if not self._any:
            # Caches keep the answers to several pages apart.
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and self._allows(origin):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*" if self._any else origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED

    def _allows(self, origin: str) -> bool:
        return self._any or origin in self._origins


def _forbidden(origin: str) -> Forbidden:
    return Forbidden(f"Pages of {origin[:200]!r} may not call this server: http.cors.origins does not name it.")
