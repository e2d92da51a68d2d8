"""AWS Bedrock in front of a server of Anthropic's Messages API."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, ClassVar

import aiohttp
from aiohttp import web

from tests.contract.gateway import Gateway
from tests.engines.remote.aws import EVENT_STREAM, from_sse, refusal, signature_is_right
from tests.engines.remote.replay import Question

VERSION = "bedrock-2023-05-31"
_STREAM = "invoke-with-response-stream"
_TYPES = {
    400: "ValidationException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


class BedrockGateway(Gateway):
    """Bedrock's addresses, its check of signatures, its framing of streams, and its refusals.

    Requests must be signed for the account of `tests.engines.remote.aws`.

    Args:
        upstream: Where the server behind it answers.
        region: The region that requests must be signed for.
        models: Models of that server by their ids at Bedrock.
    """

    stream_type: ClassVar[str] = EVENT_STREAM

    def __init__(self, upstream: str, region: str, models: Mapping[str, str]) -> None:
        super().__init__(upstream)
        self._region = region
        self._models = models

    def routes(self) -> Iterable[web.RouteDef]:
        """Both ways to ask a model."""
        return (web.post(f"/model/{{model}}/{{action:invoke|{_STREAM}}}", self._ask),)

    async def framed(self, stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
        """A message of AWS's event streams for each event; the server writes the data of each on one line."""
        async for line in stream:
            if messages := from_sse(line):
                yield messages

    def refused(self, status: int, body: bytes) -> web.Response:
        """The server's own text, in Bedrock's shape."""
        type = _TYPES.get(status, "InternalServerException")
        return _refusal(status if status in _TYPES else 500, type, json.loads(body)["error"]["message"])

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if not headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
            return _refusal(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        if not signature_is_right(Question(request.method, request.raw_path, headers, None, raw), self._region):
            said = "The request signature we calculated does not match the signature you provided."
            return _refusal(403, "InvalidSignatureException", said)
        model = self._models.get(request.match_info["model"])
        if model is None:
            return _refusal(400, "ValidationException", "The provided model identifier is invalid.")
        body: dict[str, Any] = json.loads(raw)
        if body.pop("anthropic_version", None) != VERSION:
            return _refusal(400, "ValidationException", "anthropic_version: Field required")
        # The path says both.
        if extra := body.keys() & {"model", "stream"}:
            return _refusal(400, "ValidationException", f"{min(extra)}: Extra inputs are not permitted")
        is_stream = request.match_info["action"] == _STREAM
        return await self.passed_on(request, "/v1/messages", {**body, "model": model, "stream": is_stream})


def _refusal(status: int, type: str, message: str) -> web.Response:
    reply = refusal(status, type, message)
    return web.Response(
        status=status, body=b"".join(reply.pieces), headers=reply.headers, content_type="application/json"
    )
