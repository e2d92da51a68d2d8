"""The engine `anthropic`: Anthropic's Messages API."""

from collections.abc import Mapping
from typing import Any

from engines.contract import Capabilities
from engines.registry import EngineSpec
from engines.remote.anthropic_request import message_body, our_param
from engines.remote.anthropic_stream import AnthropicStreamReader
from engines.remote.engine import RemoteEngine
from engines.remote.failures import Asked
from engines.remote.options import AnthropicOptions
from engines.remote.transport import Transport
from engines.requests import GenerateRequest

DEFAULTS = Capabilities(tools=True, reasoning=True, vision=True, documents=True, guided=True)
"""What a model behind Anthropic's API is taken to do."""


class AnthropicEngine(RemoteEngine):
    """A model behind Anthropic's Messages API.

    Args:
        name: The engine's name.
        spec: What the registry makes it from.
        options: Its options.
        transport: What is below the events, where that is not Anthropic's own.
    """

    def __init__(
        self, name: str, spec: EngineSpec, options: AnthropicOptions, transport: Transport | None = None
    ) -> None:
        super().__init__(name, spec, options, DEFAULTS, transport)
        self._version = options.api_version
        self._max_tokens = options.max_tokens
        self._thinking_budgets = options.thinking_budgets

    def _headers(self, key: str | None) -> Mapping[str, str]:
        return {"anthropic-version": self._version, **({} if key is None else {"x-api-key": key})}

    def _question(self, request: GenerateRequest) -> tuple[str, Mapping[str, Any]]:
        body = message_body(
            request,
            self.capabilities,
            model=self._model,
            max_tokens=self._max_tokens,
            thinking_budgets=self._thinking_budgets,
        )
        return f"{self._base_url}/messages", body

    def _reader(self, request: GenerateRequest, asked: Asked) -> AnthropicStreamReader:
        return AnthropicStreamReader(request, asked)

    def _our_param(self, theirs: str) -> str | None:
        return our_param(theirs)
