"""Errors as OpenAI writes them."""

import json

from deployments.http.server.error_response import public_message
from engines.errors import PenstockError


def error_json(error: PenstockError, request_id: str) -> str:
    """The error of a request as JSON text: `{"error": {"message", "type", "param", "code"}}`."""
    body = {"message": public_message(error, request_id), "type": error.kind, "param": error.param, "code": error.code}
    return json.dumps({"error": body})
