"""OpenAI's Responses API."""

from deployments.http.openai_common.error_body import error_json
from deployments.http.responses import stored
from deployments.http.responses.compact import compact
from deployments.http.responses.create import create
from deployments.http.responses.input_tokens import input_tokens
from deployments.http.server.api import ID, Api, Endpoint

_ONE = "/v1/responses/" + ID

RESPONSES = Api(
    (
        Endpoint("/v1/responses", "POST", create),
        Endpoint("/v1/responses/input_tokens", "POST", input_tokens),
        Endpoint("/v1/responses/compact", "POST", compact),
        Endpoint(_ONE, "GET", stored.retrieve),
        Endpoint(_ONE, "DELETE", stored.delete),
        Endpoint(_ONE + "/cancel", "POST", stored.cancel),
        Endpoint(_ONE + "/input_items", "GET", stored.input_items),
    ),
    error_json,
)
