"""Prompts of a cross-encoder, which reads a query and a document together."""

from typing import Any

from vllm.entrypoints.pooling.scoring.io_processor import CrossEncoderIOProcessor
from vllm.pooling_params import PoolingParams
from vllm.renderers import TokenizeParams
from vllm.renderers.chat_utils import ChatTemplateConfig

from engines.errors import ContextOverflow
from engines.pooling_requests import ScoreRequest, TruncationSide
from engines.vllm.failures import refusal
from engines.vllm.options import VllmOptions
from engines.vllm.pooler import PoolingPrompt

_INSTRUCTION = "instruction"
"""What templates of scores call it."""


class CrossEncoder:
    """Puts pairs together as vLLM's own server does: with the model's template, marks, and types of tokens.

    What vLLM's engine is not told of the types of a prompt's tokens it takes for the same, and a model of two segments
    scores wrongly: they go beside the prompt, in its parameters.

    Args:
        llm: vLLM.
        options: The engine's.
        chat_template: The configured template; None: vLLM applies none, whatever the tokenizer has.
    """

    def __init__(self, llm: Any, options: VllmOptions, chat_template: str | None) -> None:
        self._context_length: int = llm.model_config.max_model_len
        self._tokenizer = llm.renderer.get_tokenizer()
        self._template_kwargs = options.chat_template_kwargs
        self.reads_instructions = chat_template is not None and _INSTRUCTION in chat_template
        self._processor = CrossEncoderIOProcessor(
            vllm_config=llm.vllm_config,
            renderer=llm.renderer,
            chat_template_config=ChatTemplateConfig(chat_template=chat_template),
        )

    async def prompt(self, request: ScoreRequest, place: int, query: str, document: str) -> PoolingPrompt:
        """One pair.

        Args:
            request: What it is part of.
            place: Of the document in it.
            query: The query.
            document: The document.

        Raises:
            ContextOverflow: It is too long; names the document.
            InvalidRequest: It cannot be put together.
        """
        param = f"documents[{place}]"
        query, document = self._shortened(request, query, document, param)
        kwargs = dict(self._template_kwargs)
        if request.instruction is not None:
            kwargs[_INSTRUCTION] = request.instruction
        try:
            rendered = await self._processor.render_async(
                {
                    "data_1": query,
                    "data_2": document,
                    "chat_template": self._processor.chat_template,
                    "max_tokens_per_query": request.max_tokens_per_query,
                    "max_tokens_per_doc": request.max_tokens_per_doc,
                    "tok_params": TokenizeParams(
                        max_total_tokens=self._context_length,
                        truncate_prompt_tokens=request.truncate_prompt_tokens,
                        truncation_side=request.truncation_side,
                    ),
                    "prompt_extras": {"chat_template_kwargs": kwargs},
                    "skip_mm_cache": False,
                    "params": PoolingParams(task="classify", use_activation=request.use_activation),
                    "lora_requests": None,
                    "priorities": 0,
                }
            )
        except Exception as error:
            raise refusal(error, param=param, context_length=self._context_length) from error
        engine_input = rendered["prompts"]
        if request.cache_salt:
            engine_input["cache_salt"] = request.cache_salt
        return PoolingPrompt(engine_input, engine_input["prompt_token_ids"], rendered["params"], param)

    def _shortened(self, request: ScoreRequest, query: str, document: str, param: str) -> tuple[str, str]:
        """The texts without what is cut off in any case: vLLM makes lists of all tokens before it cuts them.

        Raises:
            ContextOverflow: They cannot fit, and nothing is to be cut off.
        """
        chars_per_token: int = self._tokenizer.max_chars_per_token
        most = self._context_length * chars_per_token
        keep = request.truncate_prompt_tokens
        if keep is None and not request.max_tokens_per_query and not request.max_tokens_per_doc:
            if len(query) + len(document) > most:
                raise ContextOverflow(
                    f"The query and the document have {len(query) + len(document)} characters; what this model reads "
                    f"at a time has at most {most}, or {self._context_length} tokens.",
                    context_length=self._context_length,
                    param=param,
                )
            return query, document
        side = "right" if keep is None else request.truncation_side or self._tokenizer.truncation_side
        texts = []
        for text, tokens in ((query, request.max_tokens_per_query), (document, request.max_tokens_per_doc)):
            # One token more, so that vLLM sees that there are too many.
            within = text[: (tokens + 1) * chars_per_token] if tokens else text
            texts.append(_cut(within, most + chars_per_token, side))
        return texts[0], texts[1]


def _cut(text: str, chars: int, side: TruncationSide) -> str:
    if len(text) <= chars:
        return text
    return text[-chars:] if side == "left" else text[:chars]
