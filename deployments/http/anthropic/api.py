"""Anthropic's Messages API."""

from deployments.http.anthropic.count_tokens import count_tokens
from deployments.http.anthropic.error_body import error_json
from deployments.http.anthropic.messages import messages
from deployments.http.server.api import Api, Endpoint

ANTHROPIC = Api(
    (
        Endpoint("/v1/messages", "POST", messages),
        Endpoint("/v1/messages/count_tokens", "POST", count_tokens),
    ),
    error_json,
    id_header="request-id",
)
