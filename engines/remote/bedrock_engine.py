"""The engine `bedrock`: Anthropic's Messages through AWS Bedrock."""

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from engines.errors import PenstockError
from engines.registry import EngineSpec
from engines.remote.anthropic_engine import AnthropicEngine
from engines.remote.aws_signing import AwsSigner
from engines.remote.bedrock_failures import bedrock_refusal
from engines.remote.bedrock_stream import BedrockStreamParser
from engines.remote.failures import Asked
from engines.remote.options import BedrockOptions
from engines.remote.transport import Transport
from engines.requests import GenerateRequest


class BedrockTransport(Transport):
    """Requests signed for AWS, and answers in its event streams.

    Args:
        signer: Signs the requests; None: an API key does instead.
    """

    accept: ClassVar[str] = "application/vnd.amazon.eventstream"

    def __init__(self, signer: AwsSigner | None) -> None:
        self._signer = signer

    async def open(self) -> None:
        """Finds the credentials.

        Raises:
            EngineFailed: botocore is not installed.
            ProviderRefused: There are no credentials.
        """
        if self._signer is not None:
            await self._signer.open()

    async def close(self) -> None:
        """Forgets the credentials."""
        if self._signer is not None:
            self._signer.close()

    async def signed(self, method: str, url: str, headers: Mapping[str, str], data: bytes | None) -> Mapping[str, str]:
        """The headers of a request with its signature; raises what `AwsSigner.signed` raises."""
        if self._signer is None:
            return headers
        return await self._signer.signed(method, url, headers, data)

    def parser(self) -> BedrockStreamParser:
        """A parser for one stream."""
        return BedrockStreamParser()

    def refusal(self, status: int, body: bytes, headers: Mapping[str, str], asked: Asked) -> PenstockError:
        """The error that an answer of that status, 300 or more, is."""
        return bedrock_refusal(status, body, headers, asked)


class BedrockEngine(AnthropicEngine):
    """One of Anthropic's models behind AWS Bedrock.

    Args:
        name: The engine's name.
        spec: What the registry makes it from.
        options: Its options.
    """

    def __init__(self, name: str, spec: EngineSpec, options: BedrockOptions) -> None:
        has_key = options.api_key_env is not None or options.api_key_file is not None
        signer = None if has_key else AwsSigner(name, "bedrock", options.region)
        super().__init__(name, spec, options, BedrockTransport(signer))

    def _headers(self, key: str | None) -> Mapping[str, str]:
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def _question(self, request: GenerateRequest) -> tuple[str, Mapping[str, Any]]:
        _, body = super()._question(request)
        # The path says both instead.
        rest = {name: value for name, value in body.items() if name not in ("model", "stream")}
        # A colon stays as it is: what is signed must be what is sent, and the client would decode it.
        url = f"{self._base_url}/model/{quote(self._model, safe=':')}/invoke-with-response-stream"
        return url, {"anthropic_version": self._version, **rest}

    async def _look(self) -> None:
        """Nothing can be asked there that neither costs anything nor needs another permission."""
