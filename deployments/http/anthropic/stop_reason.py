"""Why a message ended, as Anthropic says it."""

from collections.abc import Mapping
from dataclasses import dataclass

from engines.events import FinishReason, Usage

_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "cancelled": "end_turn",
}


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a message ended.

    Attributes:
        reason: Why.
        sequence: The stop sequence that ended it, or None.
    """

    reason: str
    sequence: str | None


def stop_of(reason: FinishReason, stop_reason: int | str | None, usage: Usage, context_length: int) -> Stop:
    """Why a message ended.

    Args:
        reason: Why its one choice did.
        stop_reason: The stop string or token id that ended it.
        usage: Its tokens.
        context_length: What the model's context holds; 0: nobody knows.
    """
    if reason == "stop" and isinstance(stop_reason, str):
        return Stop("stop_sequence", stop_reason)
    if reason == "length" and context_length and usage.prompt_tokens + usage.completion_tokens >= context_length:
        return Stop("model_context_window_exceeded", None)
    return Stop(_REASONS[reason], None)
