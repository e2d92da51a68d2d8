"""Log probabilities, as the chat API and the older completions API write them."""

from collections.abc import Iterable, Sequence
from typing import Any

from deployments.http.openai_common.logprobs import finite, token_logprob
from engines.events import TokenLogprob


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` object of a choice of the chat API."""
    return {
        "content": [token_logprob(token) for token in tokens],
        "refusal": None,
    }


def chat_logprobs_later(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The same with an iterator in place of the list, for `long_answer.pieces_of`."""
    return {"content": (token_logprob(token) for token in tokens), "refusal": None}


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
        values.append(finite(token.logprob))
    # The drawn token is part of the map, also when it is not among the most likely.
    tops = ({other.token: finite(other.logprob) for other in (*token.top, token)} for token in tokens)
    return {
        "text_offset": offsets,
        "token_logprobs": values,
        "tokens": names,
        "top_logprobs": tops if later else list(tops),
    }
