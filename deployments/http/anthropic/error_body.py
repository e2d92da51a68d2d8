"""Errors as Anthropic writes them."""

import json
import re

from deployments.http.server.error_response import public_message
from engines.errors import PenstockError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_INDEX = re.compile(r"\[([0-9]+)\]")


def error_json(error: PenstockError, request_id: str) -> str:
    """The error of a request as JSON text: `{"type": "error", "error": {"type", "message", "details"}, "request_id"}`.

    Its message begins with the field that it is about, as Anthropic writes it: `messages.0.content.1.source`.
    """
    message = public_message(error, request_id)
    if error.param is not None:
        param = _INDEX.sub(r".\1", error.param)
        message = message.replace(error.param, param)
        if not message.startswith(param):
            message = f"{param}: {message}"
    # Cancelled requests (499) are nobody's mistake, and nobody's answer.
    usual = "invalid_request_error" if 400 <= error.status < 499 else "api_error"
    body = {
        "type": _TYPES.get(error.status, usual),
        "message": message,
        "details": {"error_code": error.code},
    }
    return json.dumps({"type": "error", "error": body, "request_id": request_id})
