"""Log probabilities, as the chat API and the older completions API write them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from engines.events import TokenLogprob

LEAST = -9999.0
"""What OpenAI's API says for a probability of zero; JSON has no infinity."""


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` object of a choice of the chat API."""
    return {
        "content": [{**_token(token), "top_logprobs": [_token(other) for other in token.top]} for token in tokens],
        "refusal": None,
    }


def chat_logprobs_later(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The same with an iterator in place of the list, for `long_answer.pieces_of`."""
    content = ({**_token(token), "top_logprobs": [_token(other) for other in token.top]} for token in tokens)
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int, *, later: bool = False) -> dict[str, Any]:
    """The `logprobs` object of a choice of the completions API.

    Args:
        tokens: The tokens.
        offset: Characters of the answer before them.
        later: With an iterator in place of the longest list, for `long_answer.pieces_of`.
    """
    offsets = []
    names = []
    values = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
        names.append(token.token)
        values.append(_finite(token.logprob))
    # The drawn token is part of the map, also when it is not among the most likely.
    tops = ({other.token: _finite(other.logprob) for other in (*token.top, token)} for token in tokens)
    return {
        "text_offset": offsets,
        "token_logprobs": values,
        "tokens": names,
        "top_logprobs": tops if later else list(tops),
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": _finite(token.logprob), "bytes": list(token.utf8)}


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LEAST
