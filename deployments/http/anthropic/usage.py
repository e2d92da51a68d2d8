"""Usage as Anthropic writes it."""

from typing import Any

from engines.events import Usage


def usage_body(usage: Usage) -> dict[str, Any]:
    """The `usage` object of an answer. Its `input_tokens` are those that came from no cache and went into none."""
    return {
        "input_tokens": max(0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
