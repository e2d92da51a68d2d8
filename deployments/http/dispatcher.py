"""Every request passes here: routed, let in, answered, counted; and every error becomes an answer here."""

import asyncio
import logging
import re
from contextlib import suppress
from functools import partial

from aiohttp import web

from deployments.http.apis import error_text, find_endpoint, id_header
from deployments.http.server.api import Endpoint
from deployments.http.server.connection import Connection
from deployments.http.server.error_response import error_response
from deployments.http.server.exchange import Exchange, Services
from deployments.http.server.hosts import Hosts
from deployments.http.server.keys import OPEN_PATHS, Authentication
from deployments.http.server.refusals import InternalError, MethodNotAllowed, NoSuchRoute
from deployments.http.server.request_id import HEADER, request_id
from engines.errors import Cancelled, Forbidden, PenstockError, RequestTooLarge

logger = logging.getLogger(__name__)

_LOGGED_FROM = 500
"""Status from which an error is the server's own, and is logged."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Dispatcher:
    """Answers the requests of one listener.

    Args:
        services: What every request shares.
        hosts: Which names the listener answers to.
        for_operators: Whether it has the operators' routes and probes alone.
        asks_for_key: Whether it asks for a key, where there are any.
    """

    def __init__(
        self, services: Services, hosts: Hosts, *, for_operators: bool = False, asks_for_key: bool = True
    ) -> None:
        self._services = services
        self._hosts = hosts
        self._for_operators = for_operators
        self._asks_for_key = asks_for_key
        self._authentication = Authentication(services.keys)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request."""
        metrics = self._services.metrics
        meter = metrics.begin("other")
        if isinstance(request.protocol, Connection):
            request.protocol.requests += 1
        exchange = Exchange(request, request_id(request.headers.get(HEADER)), self._services, meter)
        exchange.id_header = id_header(request.path)
        try:
            response = await self._answer(exchange)
        except (asyncio.CancelledError, ConnectionError):
            # The client is gone; aiohttp cancels its handler.
            metrics.disconnected(meter)
            self._end(exchange, Cancelled.status, Cancelled.code)
            raise
        error = exchange.failed_with
        self._end(exchange, response.status if error is None else error.status, None if error is None else error.code)
        return response

    def _end(self, exchange: Exchange, status: int, code: str | None) -> None:
        self._services.metrics.end(exchange.meter, status, code)
        # Probes come every few seconds, and say nothing.
        if exchange.request.path not in OPEN_PATHS:
            is_refused = code is not None and exchange.instance is None
            self._services.access_log.write(exchange.log_line(status, code), is_refused=is_refused)

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        try:
            self._hosts.check(request)
            # A browser asks this by itself, and has no key then.
            preflight = self._services.cors.preflight(request)
            if preflight is not None:
                response: web.StreamResponse = preflight
            else:
                endpoint: Endpoint | None = None
                # Who asks without a key is not told that there is none.
                with suppress(NoSuchRoute, MethodNotAllowed):
                    endpoint, exchange.ids = find_endpoint(request.method, request.path)
                    exchange.meter.endpoint = endpoint.path
                if self._asks_for_key:
                    own = None if endpoint is None or endpoint.holder is None else partial(endpoint.holder, exchange)
                    exchange.holder = await self._authentication.holder(request, own)
                if exchange.holder is not None:
                    exchange.meter.tenant = exchange.tenant.name
                if endpoint is None:
                    endpoint, _ = find_endpoint(request.method, request.path)
                if self._for_operators and not endpoint.is_operators and request.path not in OPEN_PATHS:
                    raise NoSuchRoute(f"{endpoint.path} is on the port of the API.")
                if endpoint.is_operators and not exchange.tenant.is_admin:
                    raise Forbidden(f"{endpoint.path} takes an API key with the scope 'admin'.")
                response = await endpoint.handler(exchange)
        except PenstockError as error:
            response = self._refuse(exchange, error)
        except Exception as error:
            if isinstance(error, ConnectionError):
                raise
            logger.exception("request %s failed", exchange.id)
            response = self._refuse(exchange, InternalError())
        else:
            if exchange.failed_with is not None:
                self._log(exchange, exchange.failed_with)
        if not response.prepared:
            exchange.set_headers(response)
        return response

    def _refuse(self, exchange: Exchange, error: PenstockError) -> web.Response:
        self._log(exchange, error)
        exchange.failed_with = error
        exchange.instance = error.instance or exchange.instance
        response = error_response(error, error_text(exchange.request.path)(error, exchange.id))
        if isinstance(error, RequestTooLarge) or not exchange.request.content.is_eof():
            # The rest of the body is not worth reading.
            response.force_close()
        return response

    def _log(self, exchange: Exchange, error: PenstockError) -> None:
        # An InternalError was logged with its traceback.
        if (error.status >= _LOGGED_FROM or error.detail) and not isinstance(error, InternalError):
            text = f"{error.message} ({error.detail})" if error.detail else error.message
            # It may quote the request, which is not to write lines of its own, or to a terminal.
            text = _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)
            logger.warning("request %s: %s: %s", exchange.id, error.code, text)
