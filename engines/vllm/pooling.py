"""What a pooling model makes of each input, as it is: a vector or probabilities, of the whole or of each token."""

from typing import Any, cast

import torch
from vllm.pooling_params import PoolingParams

from engines.context import Context
from engines.errors import Unsupported
from engines.pooling_requests import POOLING_TASKS, Pooled, PoolingRequest, PoolingTask, check_pooled_size, is_per_token
from engines.vllm.pooler import Pooler, PoolingPrompt, check_truncation, in_groups, packed
from engines.vllm.rendering import Rendering


class Pooling:
    """Pools with one model. The inputs of a request run side by side.

    Args:
        name: Name of the engine.
        llm: vLLM.
        rendering: Makes prompts.
        pooler: Runs them.
        task: What the model is for; None: it pools nothing.
    """

    def __init__(self, name: str, llm: Any, rendering: Rendering, pooler: Pooler, task: str | None) -> None:
        self._name = name
        self._llm = llm
        self._rendering = rendering
        self._pooler = pooler
        self._task = next((known for known in POOLING_TASKS if known == task), None)

    @property
    def task(self) -> PoolingTask | None:
        """What the model is for; None: nothing that is served here."""
        return self._task

    async def pool(self, request: PoolingRequest, context: Context) -> Pooled:
        """What the model makes of the inputs.

        Raises:
            Unsupported: The model is for another task.
            InvalidRequest: An input is too long, or the answer would be.
            Cancelled: The context was stopped.
            EngineDead: The engine is finished.
        """
        task = self._task
        assert task is not None
        if request.task not in (None, task):
            raise Unsupported(
                f"This model is for the task {task!r}. Another one takes another `pooler_config` in its engine_args.",
                param="task",
            )
        check_truncation(request.truncate_prompt_tokens, self._llm.model_config.max_model_len)
        params = PoolingParams(task=task, use_activation=request.use_activation)

        async def prompt(place: int, text: str | list[int]) -> PoolingPrompt:
            param = f"inputs[{place}]"
            rendered = await self._rendering.pooling_input(
                text,
                param,
                request.truncate_prompt_tokens,
                request.truncation_side,
                add_special_tokens=request.add_special_tokens,
                cache_salt=request.cache_salt,
            )
            return PoolingPrompt(rendered.engine_input, rendered.token_ids, params, param)

        prompts = await in_groups(cast("list[str | list[int]]", request.inputs), prompt)
        tokens = sum(len(prompt.token_ids) for prompt in prompts)
        check_pooled_size(tokens if is_per_token(task) else len(prompts), self._columns(task))

        async def rows(_: int, output: torch.Tensor) -> tuple[int, int, bytes]:
            table = output.reshape(-1, output.shape[-1] if output.dim() else 1)
            return table.shape[0], table.shape[1], packed(table)

        made = await self._pooler.run(prompts, rows, context, request.adapter)
        return Pooled(
            values=b"".join(values for _, _, values in made),
            columns=made[0][1],
            rows=[count for count, _, _ in made],
            per_token=is_per_token(task),
            prompt_tokens=tokens,
            engine=self._name,
        )

    def _columns(self, task: PoolingTask) -> int:
        """About how many floats a row has: of a head that makes others, the model does not tell before."""
        config = self._llm.model_config
        if task in ("embed", "token_embed"):
            return int(config.embedding_size)
        return max(1, int(getattr(config.hf_config, "num_labels", 1)))
