"""The answer to a request that failed before anything was sent."""

import math

from aiohttp import hdrs, web

from deployments.http.server.refusals import InternalError, MethodNotAllowed
from engines.errors import Overload, PenstockError, Unauthorized, Unavailable

DEFAULT_RETRY_AFTER_S = 1
MAX_MESSAGE_CHARS = 2000


def error_response(error: PenstockError, text: str) -> web.Response:
    """The answer, with the headers that HTTP has for the error.

    Args:
        error: What went wrong.
        text: The same as the client's API writes it, in JSON.
    """
    response = web.Response(status=error.status, body=text.encode(), content_type="application/json")
    if isinstance(error, Overload | Unavailable):
        seconds = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        response.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(seconds)))
    elif isinstance(error, Unauthorized):
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    elif isinstance(error, MethodNotAllowed):
        response.headers[hdrs.ALLOW] = ", ".join(error.allowed)
    return response


def public_message(error: PenstockError, request_id: str) -> str:
    """What a client may read of an error, no longer than a line or two.

    Where the cause is in the log only, it says so, and under which id.
    """
    message = error.public
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[:MAX_MESSAGE_CHARS] + "..."
    if error.private or isinstance(error, InternalError):
        message += f" The server's log names the cause under the request's id, {request_id}."
    return message
