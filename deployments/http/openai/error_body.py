"""Errors as OpenAI writes them."""

import json
import math

from aiohttp import web

from deployments.http.server.refusals import MethodNotAllowed
from engines.errors import EngineDead, EngineFailed, EngineFault, Overload, PenstockError, Unauthorized, Unavailable

DEFAULT_RETRY_AFTER_S = 1
MAX_MESSAGE_CHARS = 2000


def error_json(error: PenstockError) -> str:
    """The error as JSON text: `{"error": {"message", "type", "param", "code"}}`."""
    message = _public_message(error)
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[:MAX_MESSAGE_CHARS] + "..."
    body = {"message": message, "type": error.kind, "param": error.param, "code": error.code}
    return json.dumps({"error": body})


def error_response(error: PenstockError) -> web.Response:
    """The answer to a request that failed before anything was sent."""
    response = web.Response(status=error.status, body=error_json(error).encode(), content_type="application/json")
    if isinstance(error, Overload | Unavailable):
        seconds = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    elif isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allowed)
    return response


def _public_message(error: PenstockError) -> str:
    # What an engine says of its own failure is an exception's text, with paths and addresses; the log has it.
    if isinstance(error, EngineDead):
        return "The engine failed and is being replaced. Try again."
    if isinstance(error, EngineFailed) and not isinstance(error, EngineFault):
        return "The engine failed on this request. The server's log names the cause under the request's id."
    return error.message
