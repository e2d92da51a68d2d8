"""Embeddings: one vector per input, by a pooling model."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from vllm.pooling_params import PoolingParams

from engines.call_requests import FLOAT_BYTES, Embeddings, EmbedRequest
from engines.context import Context
from engines.errors import InvalidRequest
from engines.vllm.pooler import Pooler, PoolingPrompt, check_truncation, in_groups, packed
from engines.vllm.rendering import Rendering


class Embedding:
    """Embeds with one model. The inputs of a request run side by side."""

    def __init__(self, name: str, llm: Any, rendering: Rendering, pooler: Pooler) -> None:
        self._name = name
        self._llm = llm
        self._rendering = rendering
        self._pooler = pooler

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        """The vectors of the inputs.

        Raises:
            InvalidRequest: An input is too long, or the model cannot make vectors of that length.
            AdapterFailed: Its adapter cannot be loaded.
            Cancelled: The context was stopped.
            EngineDead: The engine is finished.
        """
        # Before anything runs: a wrong parameter is wrong for all the inputs.
        params = self._params(request.dimensions)
        check_truncation(request.truncate_prompt_tokens, self._llm.model_config.max_model_len)

        async def prompt(place: int, text: str | list[int]) -> PoolingPrompt:
            param = f"inputs[{place}]"
            rendered = await self._rendering.pooling_input(
                text, param, request.truncate_prompt_tokens, cache_salt=request.cache_salt
            )
            return PoolingPrompt(rendered.engine_input, rendered.token_ids, params, param)

        async def vector(_: int, output: torch.Tensor) -> bytes:
            return packed(output)

        prompts = await in_groups(cast("list[str | list[int]]", request.inputs), prompt)
        vectors = await self._pooler.run(prompts, vector, context, request.adapter)
        return Embeddings(
            vectors=b"".join(vectors),
            dimension=len(vectors[0]) // FLOAT_BYTES,
            prompt_tokens=sum(len(prompt.token_ids) for prompt in prompts),
            engine=self._name,
        )

    @property
    def _size(self) -> int:
        size: int = self._llm.model_config.embedding_size
        return size

    def _params(self, dimensions: int | None) -> PoolingParams:
        """What the model is asked for; its own words for what it cannot do would show where it lies on the disk.

        Raises:
            InvalidRequest: It cannot make vectors of that length.
        """
        config = self._llm.model_config
        if dimensions == self._size:
            dimensions = None
        if dimensions is not None:
            lengths: Sequence[int] | None = config.matryoshka_dimensions
            if not config.is_matryoshka:
                raise InvalidRequest(
                    f"The vectors of this model have {self._size} dimensions and cannot be shortened.",
                    param="dimensions",
                )
            if dimensions > self._size or (lengths and dimensions not in lengths):
                known = f"{', '.join(map(str, lengths))}" if lengths else f"1 to {self._size}"
                raise InvalidRequest(f"The vectors of this model have {known} dimensions.", param="dimensions")
        return PoolingParams(task="embed", dimensions=dimensions)
