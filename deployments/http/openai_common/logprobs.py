"""Log probabilities of a token, as OpenAI's newer APIs write them."""

import math
from typing import Any

from engines.events import TokenLogprob

LEAST = -9999.0
"""What OpenAI's APIs say for a probability of zero; JSON has no infinity."""


def token_logprob(token: TokenLogprob) -> dict[str, Any]:
    """A token with the most likely ones at its place: `{"token", "logprob", "bytes", "top_logprobs"}`."""
    return {**_token(token), "top_logprobs": [_token(other) for other in token.top]}


def finite(logprob: float) -> float:
    """A log probability as JSON can hold it."""
    return logprob if math.isfinite(logprob) else LEAST


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": finite(token.logprob), "bytes": list(token.utf8)}
