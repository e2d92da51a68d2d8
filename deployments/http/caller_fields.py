"""The names of fields as the caller of the HTTP API wrote them.

An engine names the fields of the requests that it knows (`sampling.max_tokens`). The caller sent something else
(`max_completion_tokens`), and an error that names a field which he cannot find in his body helps him little.
"""

from collections.abc import Mapping
from typing import Any

from deployments.http.guidance import constraint_field

_SAMPLING = "sampling."
_GUIDED = "sampling.guided"
_ALIASES = {"max_tokens": ("max_completion_tokens",), "logprobs": ("top_logprobs",), "inputs": ("input",)}
"""Other names of a field, which the caller may have used instead."""


def caller_field(param: str | None, body: Mapping[str, Any]) -> str | None:
    """The caller's name of a field that an engine names."""
    if param is None:
        return None
    if param.startswith(_GUIDED):
        return constraint_field(body) or param
    if param in ("prompt_token_ids", "prompt"):
        return "prompt"
    name = param.removeprefix(_SAMPLING)
    return next((alias for alias in _ALIASES.get(name, ()) if alias in body and name not in body), name)
