"""Embeddings: one vector per input, by a pooling model."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import torch
from vllm.lora.request import LoRARequest
from vllm.pooling_params import PoolingParams

from engines.call_requests import FLOAT_BYTES, Embeddings, EmbedRequest
from engines.context import Context
from engines.errors import Cancelled, InvalidRequest
from engines.vllm.adapters import VllmAdapters
from engines.vllm.failures import refusal
from engines.vllm.rendering import Rendered, Rendering

_AT_ONCE = 16
"""Inputs that are taken up in one turn of the event loop: each takes a fraction of a millisecond."""


class Embedding:
    """Embeds with one model. The inputs of a request run side by side."""

    def __init__(self, name: str, llm: Any, rendering: Rendering, adapters: VllmAdapters) -> None:
        self._name = name
        self._llm = llm
        self._rendering = rendering
        self._adapters = adapters
        self._numbers = 0

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
        prompts = await self._prompts(request)
        if request.adapter is None:
            return await self._vectors(prompts, params, context, None)
        lora, use = await self._adapters.use(request.adapter, context)
        try:
            return await self._vectors(prompts, params, context, lora)
        finally:
            use.release()

    async def _vectors(
        self, prompts: Sequence[Rendered], params: PoolingParams, context: Context, lora: LoRARequest | None
    ) -> Embeddings:
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[bytes]] = []

        def cancel(_: Context) -> None:
            for task in tasks:
                task.cancel()

        unsubscribe = context.on_stop(cancel)
        try:
            for number, prompt in enumerate(prompts):
                if context.is_stopped:
                    break
                tasks.append(loop.create_task(self._vector(prompt, params, context, lora)))
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)
            vectors = await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            if context.is_stopped:
                raise Cancelled("The request was cancelled.") from None
            raise
        finally:
            unsubscribe()
            cancel(context)  # One that failed leaves the others running.
        if context.is_stopped:
            raise Cancelled("The request was cancelled.")
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

    async def _prompts(self, request: EmbedRequest) -> list[Rendered]:
        inputs = cast("list[str | list[int]]", request.inputs)
        prompts: list[Rendered] = []
        for begin in range(0, len(inputs), _AT_ONCE):
            prompts += await asyncio.gather(
                *(
                    self._rendering.embed_input(
                        text, f"inputs[{begin + number}]", request.truncate_prompt_tokens, request.cache_salt
                    )
                    for number, text in enumerate(inputs[begin : begin + _AT_ONCE])
                )
            )
            await asyncio.sleep(0)
        return prompts

    async def _vector(
        self, prompt: Rendered, params: PoolingParams, context: Context, lora: LoRARequest | None
    ) -> bytes:
        self._numbers += 1
        id = f"{context.id}-{self._numbers}"
        outputs = self._llm.encode(prompt.engine_input, params.clone(), id, lora_request=lora)
        try:
            async for output in outputs:
                vector: bytes = output.outputs.data.to(torch.float32).numpy().astype("<f4", copy=False).tobytes()
                return vector
        except Exception as error:
            raise refusal(error, param="inputs", context_length=self._llm.model_config.max_model_len) from error
        raise AssertionError("vLLM ended an embedding without an output")
