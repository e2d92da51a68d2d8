"""OpenAI's Responses API."""

from deployments.http.openai_common.error_body import error_json
from deployments.http.responses.create import create
from deployments.http.responses.input_tokens import input_tokens
from deployments.http.server.api import Api, Endpoint

RESPONSES = Api(
    (
        Endpoint("/v1/responses", "POST", create),
        Endpoint("/v1/responses/input_tokens", "POST", input_tokens),
    ),
    error_json,
)
