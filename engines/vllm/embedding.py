"""Embeddings: one vector per input, by a pooling model."""

import asyncio
from typing import Any, cast

from vllm.pooling_params import PoolingParams

from engines.context import Context
from engines.errors import Cancelled
from engines.requests import Embeddings, EmbedRequest
from engines.vllm.failures import refusal
from engines.vllm.rendering import Rendered, Rendering


class Embedding:
    """Embeds with one model. The inputs of a request run side by side."""

    def __init__(self, name: str, llm: Any, rendering: Rendering) -> None:
        self._name = name
        self._llm = llm
        self._rendering = rendering
        self._numbers = 0

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        """The vectors of the inputs.

        Raises:
            InvalidRequest: An input is too long, or the model cannot make vectors of that length.
            Cancelled: The context was stopped.
            EngineDead: The engine is finished.
        """
        inputs = cast("list[str | list[int]]", request.inputs)
        prompts = await asyncio.gather(
            *(
                self._rendering.embed_input(text, f"inputs[{number}]", request.truncate_prompt_tokens)
                for number, text in enumerate(inputs)
            )
        )
        # Before anything runs: a wrong parameter is wrong for all the inputs.
        self._check(request)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._vector(prompt, request, context)) for prompt in prompts]

        def cancel(_: Context) -> None:
            for task in tasks:
                task.cancel()

        unsubscribe = context.on_stop(cancel)
        try:
            vectors = await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            if context.is_stopped:
                raise Cancelled("The request was cancelled.") from None
            raise
        finally:
            unsubscribe()
            cancel(context)  # One that failed leaves the others running.
        return Embeddings(
            vectors=vectors, prompt_tokens=sum(len(prompt.token_ids) for prompt in prompts), engine=self._name
        )

    def _check(self, request: EmbedRequest) -> None:
        try:
            PoolingParams(task="embed", dimensions=request.dimensions).verify(self._llm.model_config)
        except Exception as error:
            raise refusal(error, param="dimensions", context_length=self._llm.model_config.max_model_len) from error

    async def _vector(self, prompt: Rendered, request: EmbedRequest, context: Context) -> list[float]:
        self._numbers += 1
        outputs = self._llm.encode(
            prompt.engine_input,
            PoolingParams(task="embed", dimensions=request.dimensions),
            f"{context.id}-{self._numbers}",
        )
        try:
            async for output in outputs:
                vector: list[float] = output.outputs.data.tolist()
                return vector
        except Exception as error:
            raise refusal(error, param="inputs", context_length=self._llm.model_config.max_model_len) from error
        raise AssertionError("vLLM ended an embedding without an output")
