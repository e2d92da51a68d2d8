"""OpenAI's Responses API, and its conversations."""

from deployments.http.openai_common.error_body import error_json
from deployments.http.responses import conversations, stored
from deployments.http.responses.background.runs import BackgroundRuns
from deployments.http.responses.compact import compact
from deployments.http.responses.create import create
from deployments.http.responses.input_tokens import input_tokens
from deployments.http.server.api import ID, Api, Endpoint
from deployments.http.server.exchange import Services
from deployments.http.server.worker import Worker

_ONE = "/v1/responses/" + ID
_CONVERSATION = "/v1/conversations/" + ID


def _worker(services: Services) -> Worker | None:
    return None if services.storage is None else BackgroundRuns(services)


RESPONSES = Api(
    (
        Endpoint("/v1/responses", "POST", create),
        Endpoint("/v1/responses/input_tokens", "POST", input_tokens),
        Endpoint("/v1/responses/compact", "POST", compact),
        Endpoint(_ONE, "GET", stored.retrieve),
        Endpoint(_ONE, "DELETE", stored.delete),
        Endpoint(_ONE + "/cancel", "POST", stored.cancel),
        Endpoint(_ONE + "/input_items", "GET", stored.input_items),
        Endpoint("/v1/conversations", "POST", conversations.create),
        Endpoint(_CONVERSATION, "GET", conversations.retrieve),
        Endpoint(_CONVERSATION, "POST", conversations.update),
        Endpoint(_CONVERSATION, "DELETE", conversations.delete),
        Endpoint(_CONVERSATION + "/items", "GET", conversations.list_items),
        Endpoint(_CONVERSATION + "/items", "POST", conversations.add_items),
        Endpoint(_CONVERSATION + "/items/" + ID, "GET", conversations.retrieve_item),
        Endpoint(_CONVERSATION + "/items/" + ID, "DELETE", conversations.delete_item),
    ),
    error_json,
    worker=_worker,
)
