"""Log probabilities, as the chat API and the older completions API of OpenAI write them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engines.events import TokenLogprob
from engines.remote.json_fields import as_dict, as_list, as_str

UNKNOWN_ID = -1
"""The API tells no token ids with log probabilities."""
_LEAST = -9999.0
"""What OpenAI's API says for a probability of zero."""


def chat_logprobs(theirs: Any, token_ids: Sequence[int], most: int) -> tuple[TokenLogprob, ...] | None:
    """The log probabilities of a chunk of the chat API, or None where it has none.

    Args:
        theirs: The `logprobs` object of a choice.
        token_ids: The ids of its tokens, where the server told them.
        most: How many of the likeliest tokens were asked for.
    """
    fields = as_dict(theirs)
    entries = [as_dict(entry) for entry in (*as_list(fields.get("content")), *as_list(fields.get("refusal")))]
    if not entries:
        return None
    ids = token_ids if len(token_ids) == len(entries) else (UNKNOWN_ID,) * len(entries)
    return tuple(
        _with_top(_token(entry, id), map(as_dict, _top(entry)), most) for entry, id in zip(entries, ids, strict=True)
    )


def completion_logprobs(theirs: Any, token_ids: Sequence[int], most: int) -> tuple[TokenLogprob, ...] | None:
    """The same of a chunk of the completions API."""
    fields = as_dict(theirs)
    tokens = as_list(fields.get("tokens"))
    values = as_list(fields.get("token_logprobs"))
    if not tokens or len(tokens) != len(values):
        return None
    tops = as_list(fields.get("top_logprobs"))
    tops = tops if len(tops) == len(tokens) else [{}] * len(tokens)
    ids = token_ids if len(token_ids) == len(tokens) else (UNKNOWN_ID,) * len(tokens)
    found = []
    for token, value, top, id in zip(tokens, values, tops, ids, strict=True):
        others = ({"token": other, "logprob": logprob} for other, logprob in as_dict(top).items())
        found.append(_with_top(_token({"token": token, "logprob": value}, id), others, most))
    return tuple(found)


def _top(entry: Mapping[str, Any]) -> list[Any]:
    return as_list(entry.get("top_logprobs"))


def _with_top(drawn: TokenLogprob, others: Any, most: int) -> TokenLogprob:
    """The token with the likeliest ones at its position, of which servers may list one too many: the drawn one."""
    top = [_token(other, UNKNOWN_ID) for other in others] if most else []
    top = [_named(other, drawn) for other in sorted(top, key=lambda token: -token.logprob)[:most]]
    return TokenLogprob(drawn.token, drawn.token_id, drawn.logprob, drawn.utf8, tuple(top))


def _named(other: TokenLogprob, drawn: TokenLogprob) -> TokenLogprob:
    same = other.token == drawn.token and other.utf8 == drawn.utf8 and other.logprob == drawn.logprob
    return TokenLogprob(other.token, drawn.token_id, other.logprob, other.utf8) if same else other


def _token(entry: Mapping[str, Any], token_id: int) -> TokenLogprob:
    token = as_str(entry.get("token"))
    value = entry.get("logprob")
    logprob = float(value) if isinstance(value, int | float) and math.isfinite(value) else _LEAST
    given = as_list(entry.get("bytes"))
    whole = bool(given) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in given)
    return TokenLogprob(token, token_id, logprob, bytes(given) if whole else token.encode("utf-8", "replace"))
