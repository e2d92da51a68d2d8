"""Azure OpenAI in front of a server of OpenAI's API."""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import ClassVar

import aiohttp
from aiohttp import web
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as CompletionParams
from openai.types.embedding_create_params import EmbeddingCreateParams as EmbeddingParams

from tests.contract.gateway import Gateway

API_VERSION = "2024-10-21"
_FIELDS = {
    route: params.__required_keys__ | params.__optional_keys__
    for route, params in (
        ("chat/completions", ChatParams),
        ("completions", CompletionParams),
        ("embeddings", EmbeddingParams),
    )
}
"""What each route takes, by OpenAI's own client."""


class AzureGateway(Gateway):
    """Azure's addresses, its header for the key, and its refusals.

    Args:
        upstream: Where the server behind it answers.
        key: The resource's key.
        deployments: Models of that server by the names of their deployments.
    """

    stream_type: ClassVar[str] = "text/event-stream"

    def __init__(self, upstream: str, key: str, deployments: Mapping[str, str]) -> None:
        super().__init__(upstream)
        self._key = key
        self._deployments = deployments

    def routes(self) -> Iterable[web.RouteDef]:
        """Its list of models, and what can be asked of a deployment."""
        route = "|".join(_FIELDS)
        return (
            web.get("/openai/models", self._list),
            web.post(f"/openai/deployments/{{deployment}}/{{route:{route}}}", self._ask),
        )

    def framed(self, stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
        """The stream as it comes."""
        return aiter(stream.iter_any())

    def refused(self, status: int, body: bytes) -> web.Response:
        """The refusal as it is: both write them alike."""
        return web.Response(status=status, body=body, content_type="application/json")

    async def _list(self, request: web.Request) -> web.Response:
        # Azure's models have no length of context.
        models = [{"id": "gpt", "object": "model", "lifecycle_status": "generally-available"}]
        return self._not_allowed(request) or web.json_response({"object": "list", "data": models})

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        if refusal := self._not_allowed(request):
            return refusal
        model = self._deployments.get(request.match_info["deployment"])
        if model is None:
            return _error(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        route = request.match_info["route"]
        body = await request.json()
        if unknown := body.keys() - _FIELDS[route]:
            return _error(400, None, f"Unrecognized request argument supplied: {min(unknown)}")
        # The deployment decides which model answers, whatever the body says.
        return await self.passed_on(request, f"/v1/{route}", {**body, "model": model})

    def _not_allowed(self, request: web.Request) -> web.Response | None:
        if request.headers.get("api-key") != self._key:
            return _error(401, "401", "Access denied due to invalid subscription key or wrong API endpoint.")
        if request.query.get("api-version") != API_VERSION:
            return _error(404, "404", "Resource not found")
        return None


def _error(status: int, code: str | None, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
