"""The engines `openai` and `azure`: OpenAI's API, wherever it is spoken."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from engines.attachments.beside import with_data_inside
from engines.call_requests import (
    CallRequest,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    Tokenized,
    TokenizeRequest,
)
from engines.context import Context
from engines.contract import Answers, Capabilities
from engines.pooling_requests import Pooled, PoolingRequest, ScoreRequest, Scores
from engines.registry import EngineSpec
from engines.remote.engine import RemoteEngine
from engines.remote.failures import Asked
from engines.remote.json_fields import as_count, as_dict, as_list
from engines.remote.openai_calls import (
    detokenize_body,
    detokenized,
    embed_body,
    embeddings,
    tokenize_body,
    tokenized,
)
from engines.remote.openai_pooling import pooled, pooling_body, score_body, scores
from engines.remote.openai_request import Dialect, OpenAIRequests, our_param
from engines.remote.openai_stream import OpenAIStreamReader
from engines.remote.options import AzureOptions, OpenAIOptions
from engines.requests import GenerateRequest

DEFAULTS = Capabilities(tools=True, reasoning=True, vision=True, audio=True, documents=True, guided=True, logprobs=True)
"""What a model behind OpenAI's API is taken to do; what it cannot, its server refuses."""


class OpenAIEngine(RemoteEngine):
    """A model behind an OpenAI-compatible API.

    Args:
        name: The engine's name.
        spec: What the registry makes it from.
        options: Its options.
    """

    def __init__(self, name: str, spec: EngineSpec, options: OpenAIOptions) -> None:
        self._dialect: Dialect = options.dialect
        self._vllm = options.dialect == "vllm"
        super().__init__(name, spec, options, replace(DEFAULTS, tokenize=self._vllm))
        self._max_tokens_field = options.max_tokens_field or ("max_tokens" if self._vllm else "max_completion_tokens")

    @property
    def answers(self) -> Answers:
        """Vectors and, where the server is vLLM or Penstock, scores, what it pools, token ids and their text."""
        return {
            EmbedRequest: self._embed,
            ScoreRequest: self._score,
            PoolingRequest: self._pooling,
            TokenizeRequest: self._tokenize,
            DetokenizeRequest: self._detokenize,
        }

    async def _embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        body = embed_body(request, self._model, vllm=self._vllm)
        answer = await self._post(request, context, self._url("embeddings", body), body, "inputs")
        made = await asyncio.to_thread(embeddings, answer, request, self.name)
        self._rate.spend(made.prompt_tokens)
        return made

    async def _score(self, request: ScoreRequest, context: Context) -> Scores:
        body = score_body(request, self._model)
        made = scores(await self._post(request, context, f"{self._root}/score", body, "documents"), request, self.name)
        self._rate.spend(made.prompt_tokens)
        return made

    async def _pooling(self, request: PoolingRequest, context: Context) -> Pooled:
        body = pooling_body(request, self._model)
        answer = await self._post(request, context, f"{self._root}/pooling", body, "inputs")
        made = await asyncio.to_thread(pooled, answer, request, self.name)
        self._rate.spend(made.prompt_tokens)
        return made

    async def _tokenize(self, request: TokenizeRequest, context: Context) -> Tokenized:
        body = tokenize_body(await with_data_inside(request), self._model)
        param = "prompt" if request.messages is None else "messages"
        return tokenized(await self._post(request, context, f"{self._root}/tokenize", body, param), self.name)

    async def _detokenize(self, request: DetokenizeRequest, context: Context) -> str:
        body = detokenize_body(request, self._model)
        url = f"{self._root}/detokenize"
        return detokenized(await self._post(request, context, url, body, "token_ids"), self.name)

    async def _post(
        self, request: CallRequest[Any], context: Context, url: str, body: Mapping[str, Any], param: str
    ) -> Any:
        return await self._call(request, context, lambda: self._client.post(url, body, self._asked(param)))

    def _headers(self, key: str | None) -> Mapping[str, str]:
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def _question(self, request: GenerateRequest) -> tuple[str, Mapping[str, Any]]:
        requests = OpenAIRequests(self._dialect, self.capabilities, self._model, self._max_tokens_field)
        if request.messages is not None:
            body = requests.chat(request)
            return self._url("chat/completions", body), body
        body = requests.completion(request)
        return self._url("completions", body), body

    def _reader(self, request: GenerateRequest, asked: Asked) -> OpenAIStreamReader:
        return OpenAIStreamReader(request, asked)

    def _our_param(self, theirs: str) -> str | None:
        return our_param(theirs)

    def _url(self, route: str, body: Mapping[str, Any]) -> str:
        return f"{self._base_url}/{route}"

    @property
    def _root(self) -> str:
        """Where the server is, without the version of OpenAI's API: vLLM's own routes have none."""
        return self._base_url.removesuffix("/v1")

    def _learn(self, models: Any) -> None:
        if self.capabilities.context_length:
            return
        for model in map(as_dict, as_list(as_dict(models).get("data"))):
            # vLLM and Penstock say it; OpenAI does not.
            length = as_count(model.get("max_model_len"))
            if model.get("id") == self._model and length:
                self.capabilities = replace(self.capabilities, context_length=length)


class AzureEngine(OpenAIEngine):
    """A model behind Azure OpenAI: OpenAI's API with a deployment in the path and a header of its own for the key.

    Args:
        name: The engine's name.
        spec: What the registry makes it from.
        options: Its options.
    """

    def __init__(self, name: str, spec: EngineSpec, options: AzureOptions) -> None:
        shared = options.model_dump(include=set(OpenAIOptions.model_fields))
        super().__init__(name, spec, OpenAIOptions.model_validate(shared))
        self._deployment = options.deployment
        self._api_version = options.api_version

    def _headers(self, key: str | None) -> Mapping[str, str]:
        return {} if key is None else {"api-key": key}

    def _url(self, route: str, body: Mapping[str, Any]) -> str:
        deployment = quote(self._deployment or str(body["model"]), safe="")
        return f"{self._base_url}/openai/deployments/{deployment}/{route}?api-version={self._api_version}"

    @property
    def _models_url(self) -> str:
        return f"{self._base_url}/openai/models?api-version={self._api_version}"
