"""VLLM's renderer, but that it does not tokenize again what it tokenized before.

It renders and checks with vLLM's own public pieces, and gives to vLLM the ids of the rendered text with it.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vllm.renderers import BaseRenderer, ChatParams, TokenizeParams

from engines.vllm.prompt_ids import PromptIds
from engines.vllm.segments import splitter

_OWN_WAY = (
    "render_chat_async",
    "render_cmpl_async",
    "tokenize_prompts_async",
    "tokenize_prompt_async",
    "_tokenize_prompt",
)
"""What a renderer must have as vLLM's base has it, for what is done here instead to be the same. The last is vLLM's own
affair; it is only looked at."""
_PROBE = (("user", "a"), ("assistant", "b"), ("user", "c"))


class CachingRenderer:
    """Renders chats as vLLM's renderer does, and is that one for everything else.

    Args:
        renderer: VLLM's.
        ids: The ids of earlier prompts; they belong to a thread of this renderer.
    """

    def __init__(self, renderer: Any, ids: PromptIds) -> None:
        self._renderer = renderer
        self.ids = ids
        # One thread, so that nobody else changes the ids meanwhile. VLLM has a copy of the tokenizer to spare for it.
        self._executor = ThreadPoolExecutor(1, "prompt-ids")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)

    async def render_chat_async(
        self,
        conversations: list[list[dict[str, Any]]],
        chat_params: ChatParams,
        tok_params: TokenizeParams,
        *,
        prompt_extras: dict[str, Any] | None = None,
        skip_mm_cache: bool = False,
    ) -> tuple[list[Any], list[Any]]:
        """One conversation as vLLM's engine takes it.

        Raises:
            ValueError: As vLLM's: it cannot be rendered, or is longer than the context.
        """
        (messages,) = conversations
        extras = dict(prompt_extras or {})
        conversation, prompt = await self._renderer.render_messages_async(messages, chat_params)
        if isinstance(prompt.get("prompt"), str) and "prompt_token_ids" not in prompt and _is_plain(tok_params):
            # Its ids are not cut, nor anything added: too many are an error, which vLLM raises below.
            prompt = tok_params.apply_pre_tokenization(self._renderer.tokenizer, prompt)
            prompt["prompt_token_ids"] = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._tokenize, prompt["prompt"], extras.get("cache_salt", ""), tok_params
            )
        extras["media_io_kwargs"] = chat_params.media_io_kwargs or {}
        inputs = await self._renderer.render_cmpl_async(
            [prompt], tok_params, prompt_extras=extras, skip_mm_cache=skip_mm_cache
        )
        return [conversation], inputs

    def _tokenize(self, text: str, salt: str, tok_params: TokenizeParams) -> list[int]:
        kwargs = tok_params.get_encode_kwargs()

        def tokenize(part: str) -> list[int]:
            return list(self._renderer.tokenizer(part, **kwargs)["input_ids"])

        return self.ids.ids(text, salt, tokenize, kwargs["max_length"])


def caching(renderer: Any, max_bytes: int, chat_template: str | None, template_kwargs: dict[str, Any]) -> Any:
    """The renderer with a cache of ids, where it can be exact; else the renderer itself.

    Args:
        renderer: VLLM's.
        max_bytes: Most memory that the ids take; 0: none are kept.
        chat_template: The template that replaces the model's own.
        template_kwargs: Defaults of what the template is given.
    """
    is_own = any(getattr(type(renderer), name, None) is not getattr(BaseRenderer, name, None) for name in _OWN_WAY)
    if not max_bytes or is_own:
        return renderer
    made = splitter(renderer.tokenizer, lambda: _probe(renderer, chat_template, template_kwargs))
    return renderer if made is None else CachingRenderer(renderer, PromptIds(made, max_bytes))


def _is_plain(params: TokenizeParams) -> bool:
    return not params.add_special_tokens and not params.return_token_offsets and params.truncate_prompt_tokens is None


def _probe(renderer: Any, chat_template: str | None, template_kwargs: dict[str, Any]) -> str:
    """A short chat, rendered; empty where the model takes none."""
    params = ChatParams(
        chat_template=chat_template,
        chat_template_content_format="auto",
        chat_template_kwargs={**template_kwargs, "tokenize": False, "add_generation_prompt": True},
    )
    try:
        _, prompt = renderer.render_messages([{"role": role, "content": text} for role, text in _PROBE], params)
    except Exception:  # noqa: BLE001 - whatever a template or a renderer raises: it does not take such a chat
        return ""
    text = prompt.get("prompt")
    return text if isinstance(text, str) else ""
