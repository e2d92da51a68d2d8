"""Usage as OpenAI writes it."""

from typing import Any

from engines.events import Usage


def usage_body(usage: Usage) -> dict[str, Any]:
    """The `usage` object of an answer."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens} | _written(usage),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _written(usage: Usage) -> dict[str, Any]:
    """What only providers charge for, and only they tell."""
    return {"cache_write_tokens": usage.cache_write_tokens} if usage.cache_write_tokens else {}
