"""Prompts through a pooling model: those of a request side by side, and all of them ended with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from vllm.lora.request import LoRARequest
from vllm.pooling_params import PoolingParams

from engines.context import Context
from engines.errors import EngineFailed, InvalidRequest
from engines.turns import Turns
from engines.vllm.adapters import VllmAdapters
from engines.vllm.failures import refusal

T = TypeVar("T")
Made = TypeVar("Made")

_AT_ONCE = 16
"""What is taken up in one turn of the event loop: each takes a fraction of a millisecond."""


@dataclass(frozen=True, slots=True)
class PoolingPrompt:
    """One prompt for a pooling model.

    Attributes:
        engine_input: vLLM's own form of it.
        token_ids: Its token ids.
        params: What is asked of the model.
        param: The field of the request that it comes from.
    """

    engine_input: dict[str, Any]
    token_ids: list[int]
    params: PoolingParams
    param: str


class Pooler:
    """Runs prompts through one model.

    Args:
        llm: vLLM.
        adapters: Those of the model.
    """

    def __init__(self, llm: Any, adapters: VllmAdapters) -> None:
        self._llm = llm
        self._adapters = adapters
        self._numbers = 0

    async def run(
        self,
        prompts: Sequence[PoolingPrompt],
        convert: Callable[[int, torch.Tensor], Awaitable[Made]],
        context: Context,
        adapter: str | None,
    ) -> list[Made]:
        """What becomes of each prompt, in their order.

        Args:
            prompts: What the model reads.
            convert: What is made of what it says to a prompt: the prompt's place, and a tensor on the CPU.
            context: Ends all of them when it is stopped.
            adapter: The LoRA adapter that reads them, by name; None: the model alone.

        Raises:
            InvalidRequest: The engine does not take one.
            AdapterFailed: The adapter cannot be loaded.
            Cancelled: The context was stopped.
            EngineDead: The engine is finished.
        """
        if adapter is None:
            return await self._run(prompts, convert, context, None)
        lora, use = await self._adapters.use(adapter, context)
        try:
            return await self._run(prompts, convert, context, lora)
        finally:
            use.release()

    async def _run(
        self,
        prompts: Sequence[PoolingPrompt],
        convert: Callable[[int, torch.Tensor], Awaitable[Made]],
        context: Context,
        lora: LoRARequest | None,
    ) -> list[Made]:
        async def one(place: int, prompt: PoolingPrompt) -> Made:
            return await convert(place, await self._output(prompt, context, lora))

        async def all_of_them() -> list[Made]:
            tasks: list[asyncio.Task[Made]] = []
            turns = Turns()
            try:
                for place, prompt in enumerate(prompts):
                    tasks.append(asyncio.create_task(one(place, prompt)))
                    if place % _AT_ONCE == _AT_ONCE - 1:
                        await asyncio.sleep(0)  # They begin.
                        await turns.pause()
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:  # One that failed leaves the others running.
                    task.cancel()

        return await context.unless_stopped(all_of_them())

    async def _output(self, prompt: PoolingPrompt, context: Context, lora: LoRARequest | None) -> torch.Tensor:
        self._numbers += 1
        outputs: AsyncIterator[Any] = self._llm.encode(
            prompt.engine_input, prompt.params.clone(), f"{context.id}-{self._numbers}", lora_request=lora
        )
        try:
            async for output in outputs:
                if output.error is not None:
                    raise EngineFailed(f"The engine failed on {prompt.param}: {output.error.message}")
                pooled: torch.Tensor = output.outputs.data
                return pooled
        except Exception as error:
            raise refusal(error, param=prompt.param, context_length=self._llm.model_config.max_model_len) from error
        raise AssertionError("vLLM ended a pooling request without an output")


async def in_groups(items: Sequence[T], make: Callable[[int, T], Awaitable[Made]]) -> list[Made]:
    """What is made of each item, of so many at a time, given its place; others have the event loop in between."""
    made: list[Made] = []
    turns = Turns()
    for begin in range(0, len(items), _AT_ONCE):
        group = items[begin : begin + _AT_ONCE]
        made += await asyncio.gather(*(make(begin + number, item) for number, item in enumerate(group)))
        await turns.pause()
    return made


def check_truncation(truncate_prompt_tokens: int | None, context_length: int) -> None:
    """Raises InvalidRequest where more tokens are to be kept than the model takes."""
    if truncate_prompt_tokens is not None and truncate_prompt_tokens > context_length:
        raise InvalidRequest(
            f"truncate_prompt_tokens: this model takes {context_length} tokens.", param="truncate_prompt_tokens"
        )


def packed(values: torch.Tensor) -> bytes:
    """All numbers of a tensor, as 32-bit floats, little-endian."""
    data: bytes = values.to(torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes()
    return data
