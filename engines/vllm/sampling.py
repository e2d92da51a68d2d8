"""How tokens are drawn, in vLLM's words."""

from typing import Any

from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from engines.errors import ContextOverflow
from engines.requests import Guided, Sampling

_DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Of OpenAI's API, for what neither the request nor the model's generation config says."""


def structured_outputs(guided: Guided | None) -> StructuredOutputsParams | None:
    """What the output must look like, as vLLM takes it."""
    if guided is None:
        return None
    return StructuredOutputsParams(
        json=guided.json_schema,
        json_object=guided.json_object,
        regex=guided.regex,
        choice=list(guided.choice) if guided.choice is not None else None,
        grammar=guided.grammar,
        structural_tag=guided.structural_tag,
    )


def guided_field(guided: Guided) -> str:
    """Name of the field that says what the output must look like."""
    name = next(name for name in Guided.model_fields if getattr(guided, name) is not None)
    return f"sampling.guided.{name}"


class SamplingMapper:
    """Makes vLLM's sampling parameters for the requests of one model."""

    def __init__(self, model_config: Any) -> None:
        self._context_length: int = model_config.max_model_len
        # What the model's generation config says, as far as it differs from vLLM's defaults.
        self._defaults: dict[str, Any] = model_config.get_diff_sampling_param()
        # A limit set by the operator holds for requests that ask for more, too.
        self._limit: int | None = (
            self._defaults.get("max_tokens")
            if model_config.generation_config not in ("auto", "vllm")
            else model_config.override_generation_config.get("max_new_tokens")
        )

    def max_tokens(self, sampling: Sampling, prompt_tokens: int, *, prompt: str) -> int:
        """Most tokens to generate after a prompt of that length.

        Args:
            sampling: What the request asks for.
            prompt_tokens: Length of the prompt.
            prompt: Name of the field that holds it.

        Raises:
            ContextOverflow: It does not fit.
        """
        room = self._context_length - prompt_tokens
        if room < 1:
            raise ContextOverflow(
                f"The prompt has {prompt_tokens} tokens, which leaves no room for an answer in the context of "
                f"{self._context_length}.",
                context_length=self._context_length,
                prompt_tokens=prompt_tokens,
                param=prompt,
            )
        wanted = sampling.max_tokens
        if wanted is not None and sampling.clip_max_tokens:
            wanted = min(wanted, room)
        if wanted is not None and wanted > room:
            raise ContextOverflow(
                f"The prompt has {prompt_tokens} tokens, and max_tokens asks for {wanted} more; the "
                f"context holds {self._context_length}. Ask for at most {room}.",
                context_length=self._context_length,
                prompt_tokens=prompt_tokens,
                param="sampling.max_tokens",
            )
        limit: int = get_max_tokens(self._context_length, wanted, prompt_tokens, self._defaults, self._limit)
        return limit

    def params(self, sampling: Sampling, max_tokens: int, **overrides: Any) -> SamplingParams:
        """The sampling parameters of one choice, as vLLM takes them.

        Args:
            sampling: What the request asks for.
            max_tokens: Most tokens to generate.
            overrides: Parameters that the model's parsers insist on.

        Raises:
            VLLMValidationError: A value, or a combination of values, is not valid.
        """
        stop_token_ids = list(dict.fromkeys([*sampling.stop_token_ids, *self._defaults.get("stop_token_ids", ())]))
        drawn = {
            name: value if (value := getattr(sampling, name)) is not None else self._defaults.get(name, default)
            for name, default in _DEFAULTS.items()
        }
        arguments: dict[str, Any] = drawn | {
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "seed": sampling.seed,
            "stop": list(sampling.stop),
            "stop_token_ids": stop_token_ids,
            "include_stop_str_in_output": sampling.include_stop_str_in_output,
            "bad_words": list(sampling.bad_words),
            "allowed_token_ids": sampling.allowed_token_ids,
            "logprobs": sampling.logprobs,
            "logit_bias": dict(sampling.logit_bias) or None,
            "max_tokens": max_tokens,
            "min_tokens": sampling.min_tokens,
            "ignore_eos": sampling.ignore_eos,
            "skip_special_tokens": sampling.skip_special_tokens,
            "spaces_between_special_tokens": sampling.spaces_between_special_tokens,
            "structured_outputs": structured_outputs(sampling.guided),
            "output_kind": RequestOutputKind.DELTA,
            "skip_clone": True,
        }
        params: SamplingParams = SamplingParams.from_optional(**(arguments | overrides))
        return params
